"""The model card: what a written file is, for whoever gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anywidth.core.files import write_atomically
from anywidth.export.export import Exported

FLOATS = "32-bit floats"
"""The precision for which a file is compared with the trained network."""

__all__ = ["CardFacts", "card_path", "model_card", "write_card"]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card tells beside what is known of the file.

    Attributes:
        model: The name of the architecture.
        data: The data set that it was trained on.
        inputs: The shape of one input, such as (3, 224, 224).
        classes: The names of the classes that it tells apart, in the order of its outputs.
        license: An SPDX identifier of the weights' licence, or `unknown`.
        accuracy: Top-1 accuracy in percent on the test images, by width; None if it was not measured.
        measured_with: What measured it, such as ONNX Runtime.
        precision: Of weights and activations.
        mean: Per channel, subtracted from pixels that go from 0 to 1; None if they had another range in training.
        std: Per channel, divided by; None likewise.
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
    """Where the card of a file is.

    >>> card_path(Path("small.onnx")).name
    'small.onnx.md'
    """
    return path.with_name(path.name + ".md")


def write_card(written: Exported, facts: CardFacts) -> Path:
    """Write the card of a file beside it."""
    text = model_card(written, facts)
    return write_atomically(card_path(written.path), lambda path: path.write_text(text, encoding="utf-8"))


def model_card(written: Exported, facts: CardFacts) -> str:
    """The card as Markdown, with the header that model hubs read.

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
        f"| licence | {facts.license}{_ASK if facts.license == 'unknown' else ''} |",
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
        return ", as in training; their numbers do not go from 0 to 1"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (facts.mean, facts.std))
    per = " by channel" if len(facts.mean) > 1 else ""
    return f": pixels from 0 to 1, minus {mean}, divided by {std}{per}"


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(name.replace("|", "\\|") for name in classes)


_DIFFERENCE = (
    "| largest difference to the trained network's outputs | {:.1e}, as a share of the largest if that is above 1 |"
)
_LADDER = "| width | the input `width`, 32-bit float of shape (1,): the widest below is run that is not above it |"
_ASK = ": ask whoever trained it"
