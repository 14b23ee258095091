"""`anywidth inspect`: what of a model can be narrowed, and what its widths cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anywidth.cli.options import SettingsError, option
from anywidth.cli.values import Widths, parse_shape, parse_widths

__all__ = ["InspectSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """The options of `anywidth inspect`.

    Attributes:
        run: folder that anywidth train wrote, instead of --model
        model: digits, mobilenet_v2, resnet18, ..., torchvision/NAME or timm/NAME
        widths: widths to count at: 0.25,0.5,1.0, or how many, evenly spaced
        input_shape: channels, height and width; by default 1,8,8 for digits and else 3,224,224
        num_classes: outputs of the classifier; by default 10 for digits and else 1000
        min_width: narrowest width; by default the model's own, or 0.25
        divisor: channels are rounded to multiples of this; by default the model's own, or 8
        width_mult: build the model wider than its class says, such as 1.5; only for our own models
        frozen: groups or modules whose channels are never narrowed, as glob patterns
    """

    run: Path | None = field(default=None, metadata=option(positional=True, metavar="RUN"))
    model: str | None = None
    widths: Widths = field(default=4, metadata=option(parse=parse_widths, metavar="W,W,...|N"))
    input_shape: tuple[int, int, int] | None = field(default=None, metadata=option(parse=parse_shape, metavar="C,H,W"))
    num_classes: int | None = None
    min_width: float | None = None
    divisor: int | None = None
    width_mult: float = 1.0
    frozen: tuple[str, ...] = field(default=(), metadata=option(metavar="PATTERN"))

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            raise SettingsError("give either a run folder or --model NAME, such as --model torchvision/mobilenet_v2")


def run(settings: InspectSettings) -> int:
    """Print what of a model is elastic or frozen and why, and MACs and parameters at chosen widths."""
    from rich.console import Console

    from anywidth.cli.build import build_supernet, choose_widths
    from anywidth.cli.run_folder import RunFolder
    from anywidth.cost import macs, params, uncounted_operators
    from anywidth.report import cost_table
    from anywidth.supernet import load

    console = Console(highlight=False)
    if settings.run is not None:
        net = load(RunFolder.open(settings.run).path)
    else:
        assert settings.model is not None
        small = settings.model == "digits"
        net = build_supernet(
            settings.model,
            input_shape=settings.input_shape or ((1, 8, 8) if small else (3, 224, 224)),
            classes=settings.num_classes or (10 if small else 1000),
            divisor=settings.divisor,
            min_width=settings.min_width,
            frozen=settings.frozen,
            width_mult=settings.width_mult,
        )
    widths = choose_widths(net, settings.widths)
    console.print(net.summary(), soft_wrap=True, markup=False)
    full = (1.0, macs(net), params(net))
    rows = [(width, macs(net, width), params(net, width)) for width in widths if width != 1.0]
    console.print(cost_table([*rows, full]))
    uncounted = ", ".join(f"{name} ({calls})" for name, calls in uncounted_operators(net).items())
    console.print(f"1 MAC is one multiply-add; not counted: {uncounted or 'nothing'}", soft_wrap=True, markup=False)
    return 0
