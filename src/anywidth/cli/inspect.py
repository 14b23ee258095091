"""`anywidth inspect`: which channels of a model can be narrowed, and the cost of its widths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.values import Widths, parse_shape, parse_widths

__all__ = ["InspectSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """The options of `anywidth inspect`."""

    run: Path | None = option(
        None, positional=True, metavar="RUN", help="folder that anywidth train wrote, instead of --model"
    )
    model: str | None = option(None, help="digits, mobilenet_v2, resnet18, ..., torchvision/NAME or timm/NAME")
    widths: Widths = option(
        4,
        parse=parse_widths,
        metavar="W,W,...|N",
        help="widths to report: 0.25,0.5,1.0, or a number of evenly spaced widths",
    )
    input_shape: tuple[int, int, int] | None = option(
        None,
        parse=parse_shape,
        metavar="C,H,W",
        help="channels, height and width of an image; by default 1,8,8 for digits, otherwise 3,224,224",
    )
    num_classes: int | None = option(None, help="outputs of the classifier; by default 10 for digits, otherwise 1000")
    min_width: float | None = option(None, help="narrowest width; by default the model's, or 0.25")
    divisor: int | None = option(
        None, help="round channel numbers to multiples of this; by default the model's divisor, or 8"
    )
    width_mult: float = option(1.0, help="widen the model by this factor, such as 1.5; built-in models only")
    frozen: tuple[str, ...] = option(
        (), metavar="PATTERN", help="glob patterns of groups or modules that are never narrowed"
    )

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            raise SettingsError("give either a run folder or --model NAME, such as --model torchvision/mobilenet_v2")


def run(settings: InspectSettings) -> int:
    """Print which channels of a model are elastic or frozen and why, with MACs and parameters by width."""
    from rich.console import Console

    from anywidth.cost import macs, params, uncounted_operators
    from anywidth.report import cost_table
    from anywidth.runs.run_folder import RunFolder
    from anywidth.runs.settings import ModelSettings, WidthSettings
    from anywidth.runs.supernet import build_supernet
    from anywidth.runs.widths import choose_widths
    from anywidth.supernet import load

    console = Console(highlight=False)
    if settings.run is not None:
        net = load(RunFolder.open(settings.run).path)
    else:
        assert settings.model is not None
        small = settings.model == "digits"
        net = build_supernet(
            ModelSettings(name=settings.model, width_mult=settings.width_mult),
            WidthSettings(min_width=settings.min_width, divisor=settings.divisor, frozen=settings.frozen),
            input_shape=settings.input_shape or ((1, 8, 8) if small else (3, 224, 224)),
            classes=settings.num_classes or (10 if small else 1000),
        )
    widths = choose_widths(net, settings.widths)
    console.print(net.summary(), soft_wrap=True, markup=False)
    full = (1.0, macs(net), params(net))
    rows = [(width, macs(net, width), params(net, width)) for width in widths if width != 1.0]
    console.print(cost_table([*rows, full]))
    uncounted = ", ".join(f"{name} ({calls})" for name, calls in uncounted_operators(net).items())
    console.print(f"1 MAC is one multiply-add; not counted: {uncounted or 'nothing'}", soft_wrap=True, markup=False)
    return 0
