"""Model card of an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anywidth.core.files import write_atomically
from anywidth.export.export import Exported

FLOATS = "32-bit floats"
"""The precision in which a file is compared with the trained network."""

__all__ = ["CardFacts", "card_path", "model_card", "write_card"]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Facts for a model card that the exported file does not contain.

    Attributes:
        model: Name of the architecture.
        data: Training dataset.
        inputs: Shape of one input, such as (3, 224, 224).
        classes: Class names, in the order of the outputs.
        license: SPDX identifier of the license of the weights, or `unknown`.
        accuracy: Top-1 accuracy in percent on the test images, by width; None if not measured.
        measured_with: Runtime that measured the accuracy, such as ONNX Runtime.
        precision: Precision of weights and activations.
        mean: Mean per channel of pixels from 0 to 1, which is subtracted; None if training used another pixel range.
        std: Standard deviation per channel, which is divided by; None if training used another pixel range.
    """

    model: str
    data: str
    inputs: tuple[int, ...]
    classes: Sequence[str]
    license: str = "unknown"
    accuracy: Sequence[float | None] = ()
    measured_with: str = "PyTorch"
    precision: str = FLOATS
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def card_path(path: Path) -> Path:
    """Path of the model card of a file.

    >>> card_path(Path("small.onnx")).name
    'small.onnx.md'
    """
    return path.with_name(path.name + ".md")


def write_card(written: Exported, facts: CardFacts) -> Path:
    """Write the model card of a file next to it."""
    text = model_card(written, facts)
    return write_atomically(card_path(written.path), lambda path: path.write_text(text, encoding="utf-8"))


def model_card(written: Exported, facts: CardFacts) -> str:
    """Model card as Markdown, with the header that model hubs read.

    >>> written = Exported(path=Path("small.onnx"), format="onnx", widths=("0.5",), macs=(2000,), params=(300,),
    ...                    size=1400, difference=1e-7)
    >>> facts = CardFacts(model="DigitsNet", data="digits", inputs=(1, 8, 8), classes="0123456789", accuracy=[98.5])
    >>> print(model_card(written, facts).splitlines()[-1])
    | 0.5 | 98.50 % | 2,000 | 300 |
    """
    import yaml

    header = {"license": facts.license, "library_name": "anywidth", "pipeline_tag": "image-classification"}
    several = len(written.widths) > 1
    shape = " x ".join(map(str, facts.inputs))
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        "",
        f"# {facts.model} on {facts.data}, {'widths' if several else 'width'} {', '.join(written.widths)}",
        "",
        "Made with anywidth: one network, trained once, that runs at any width.",
        "",
        "| | |",
        "|---|---|",
        f"| file | `{written.path.name}`, {written.size:,} bytes, format {written.format} |",
        f"| precision | {facts.precision} |",
        f"| input | batches of {shape}{_normalised(facts)} |",
        f"| output | one number for each of {len(facts.classes)} classes, in this order: {_listed(facts.classes)} |",
        *([_LADDER] if several else []),
        f"| training data | {facts.data} |",
        f"| license | {facts.license}{_ASK if facts.license == 'unknown' else ''} |",
        *([_DIFFERENCE.format(written.difference)] if facts.precision == FLOATS else []),
        "",
        f"Top-1 accuracy on the test images, measured with {facts.measured_with}; "
        "1 MAC is one multiply-add, per image.",
        "",
        "| width | accuracy | MACs | parameters |",
        "|---|---|---|---|",
    ]
    accuracy = [*facts.accuracy, *[None] * len(written.widths)]
    for width, found, macs, params in zip(written.widths, accuracy, written.macs, written.params, strict=False):
        lines.append(f"| {width} | {'not measured' if found is None else f'{found:.2f} %'} | {macs:,} | {params:,} |")
    return "\n".join(lines) + "\n"


def _normalised(facts: CardFacts) -> str:
    if facts.mean is None or facts.std is None:
        return ", preprocessed as in training; values are not pixels from 0 to 1"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (facts.mean, facts.std))
    per = " by channel" if len(facts.mean) > 1 else ""
    return f": pixels from 0 to 1, minus {mean}, divided by {std}{per}"


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(name.replace("|", "\\|") for name in classes)


_DIFFERENCE = "| largest difference from the trained network's outputs | {:.1e}, relative to outputs above 1 |"
_LADDER = "| width | the input `width`, 32-bit float of shape (1,): the file runs its widest width up to that number |"
_ASK = ": ask the author of the model"
