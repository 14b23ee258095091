"""The model, the data and the supernet that settings name."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset

from anywidth.cli.messages import log
from anywidth.cli.processes import Processes
from anywidth.cli.train_settings import TrainSettings
from anywidth.cli.values import AnyWidths, Widths
from anywidth.core.errors import DataError
from anywidth.core.processes import first_of_machine_first, rank_and_count
from anywidth.data import DataBundle, Loaders, TensorImages, hold_out, load_data, make_loaders
from anywidth.evaluation import even_widths
from anywidth.models import build_model, channels_last_, load_initial
from anywidth.supernet import Supernet
from anywidth.widths import Width, check_width

T = TypeVar("T")

__all__ = [
    "build_data",
    "build_held_out",
    "build_loaders",
    "build_supernet",
    "choose_any_widths",
    "choose_widths",
    "resolve",
]


def build_data(settings: TrainSettings) -> DataBundle:
    """The data set of a run, without what it holds out; splits depend on the seed alone."""
    return build_held_out(settings)[0] if settings.hold_out else _whole(settings)


def build_held_out(settings: TrainSettings) -> tuple[DataBundle, Dataset[Any]]:
    """The data set of a run without the training images that it holds out, and those."""
    return hold_out(_whole(settings), settings.hold_out, seed=settings.seed)


def _whole(settings: TrainSettings) -> DataBundle:
    load = partial(
        load_data, settings.data, root=settings.data_root, seed=settings.seed, image_size=settings.image_size,
        skip_corrupt=settings.skip_corrupt,
    )  # fmt: skip
    on_disk = settings.data.partition(":")[0] in ("digits", "npz", "imagefolder", "webdataset")
    bundle = load() if on_disk else first_of_machine_first(load)
    if len(bundle.classes) < 2:
        raise DataError(f"{settings.data} has one class, from which nothing can be told apart; give two")
    if settings.rand_augment is None:
        return bundle
    from anywidth.data.rand_augment import with_rand_augment

    return with_rand_augment(bundle, magnitude=settings.rand_augment)


def build_loaders(settings: TrainSettings, bundle: DataBundle) -> Loaders:
    """Fresh loaders of this process's part, whose batches depend on the seed and the epoch alone."""
    rank, count = rank_and_count()
    return make_loaders(
        bundle, batch_size=settings.batch_size, seed=settings.seed, workers=settings.workers or 0, rank=rank,
        world_size=count, skip_corrupt=settings.skip_corrupt,
    )  # fmt: skip


def build_supernet(
    model: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    divisor: int | None = None,
    min_width: float | None = None,
    frozen: tuple[str, ...] = (),
    switches: tuple[float, ...] | None = None,
    input_rescaling: bool = False,
    width_mult: float = 1.0,
    init: str | None = None,
    order: Literal["l1", "none"] = "none",
) -> Supernet:
    """A supernet with new weights, or those of `init`.

    What else is None comes from the model's class, and then from `Supernet`.

    Patterns are added to those that the model's class freezes itself.
    """
    if min_width is not None:
        check_width(min_width, what="--min-width")
    torch.manual_seed(seed)
    network = build_model(model, num_classes=classes, input_shape=input_shape, width=width_mult)
    if init is not None:
        new = load_initial(network, init, name=model, input_shape=input_shape)
        if new:
            few = ", ".join(new[:4]) + (", ..." if len(new) > 4 else "")
            log("warning", f"{len(new)} tensors start anew, which {init} does not have, or in another shape: {few}")
    return Supernet(
        channels_last_(network),
        torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(seed)),
        divisor=_own(network, "divisor", int, 8) if divisor is None else divisor,
        min_width=_own(network, "min_width", float, 0.25) if min_width is None else min_width,
        frozen=(*_own(network, "frozen", tuple, ()), *frozen),
        switches=switches,
        input_rescaling=input_rescaling,
        order="l1" if order == "l1" else None,
    )


def resolve(settings: TrainSettings, net: Supernet, bundle: DataBundle, processes: Processes) -> TrainSettings:
    """The settings with every default that depends on the model, the data or the machine filled in."""
    in_memory = all(isinstance(part, TensorImages) for part in (bundle.train, bundle.test, bundle.calibration))
    kind, _, place = settings.data.partition(":")
    workers = 0 if in_memory else min(4, max(1, (os.cpu_count() or 1) // processes.per_machine))
    return replace(
        settings,
        # A run folder is read from other working folders as well.
        data=f"{kind}:{Path(place).expanduser().resolve()}" if _is_path(kind, place) else settings.data,
        init=settings.init if settings.init in (None, "hub") else str(Path(settings.init).expanduser().resolve()),
        data_root=settings.data_root if place or kind == "digits" else settings.data_root.expanduser().resolve(),
        weight_decay=settings.decay,
        average=settings.averaging,
        ladder=settings.rungs or None,
        min_width=net.min_width,
        divisor=net.divisor,
        workers=workers if settings.workers is None else settings.workers,
    )


def _is_path(kind: str, place: str) -> bool:
    """Whether data are named by a path; sets of Hugging Face may be named by their name on the hub."""
    return bool(place) and (kind != "hf" or Path(place).expanduser().exists())


def choose_widths(net: Supernet, widths: Widths, also: tuple[float, ...] = ()) -> list[float]:
    """The widths that are meant, narrowest first, each once; a number means all switches where there are some.

    Raises:
        WidthError: one is out of range, or no switch.
    """
    chosen = even_widths(net, widths) if isinstance(widths, int) else widths
    found = sorted({check_width(width, net.min_width) for width in (*chosen, *also)})
    for width in found:
        net.config(width)
    return found


def choose_any_widths(net: Supernet, widths: AnyWidths) -> list[Width]:
    """As `choose_widths`; maps of patterns come last, as given.

    Raises:
        WidthError: one is out of range, no switch, or has a pattern that matches nothing.
    """
    if isinstance(widths, int):
        return list(choose_widths(net, widths))
    maps = [width for width in widths if isinstance(width, dict)]
    for width in maps:
        net.config(width)
    return [*choose_widths(net, tuple(width for width in widths if not isinstance(width, dict))), *maps]


def _own(network: nn.Module, name: str, kind: type[T], default: T) -> T:
    value = getattr(network, name, None)
    return value if isinstance(value, kind) else default
