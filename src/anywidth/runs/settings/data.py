"""Settings of the images that a run trains on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from anywidth.core.errors import SettingsError
from anywidth.runs.options import check_lows, option

__all__ = ["DataSettings"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the images come from, and how they are resized, changed, held out and put into batches."""

    source: str = option(
        "digits", name="data",
        help="digits, cifar10, cifar100, fashion-mnist, npz:FILE, imagefolder:DIR, webdataset:DIR or hf:NAME",
    )  # fmt: skip
    root: Path = option(Path("data"), name="data_root", help="folder of downloaded data sets")
    image_size: int | None = option(
        None, low=1,
        help="height and width in pixels that images are resized to; by default their own, or for photographs of "
        "different sizes the median of the shorter sides, as a multiple of 32 up to 224",
    )  # fmt: skip
    batch_size: int = option(64, low=1, help="images per batch, of each process where torchrun starts several")
    skip_corrupt: bool = option(
        False,
        help="leave out images that cannot be read, and say how many after the epoch, instead of stopping",
    )
    mixup: float = option(0.0, help="mix images and their labels in pairs, with this alpha, such as 0.2")
    cutmix: float = option(
        0.0,
        help="paste a part of another image into each, with this alpha, such as 1; with --mixup, one of both per batch",
    )
    rand_augment: int | None = option(
        None, low=0, help="change the training images by RandAugment of this magnitude as well, such as 9"
    )
    hold_out: float = option(
        0.0,
        help="share of the training images that is not trained on but kept for anywidth search and for the score of "
        "four widths after every epoch, such as 0.1",
    )
    workers: int | None = option(
        None, low=0,
        help="processes that read images from disk, each with random changes of its own, so that another number is "
        "another training; by default one per core, up to 4",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_lows(self)
        if not 0 <= self.hold_out < 1:
            raise SettingsError(f"--hold-out is {self.hold_out:g}; give a share of the images below 1, such as 0.1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"--{name} is {getattr(self, name):g}; give its alpha, 0 or more, such as 0.2")
