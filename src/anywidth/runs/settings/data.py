"""Settings of the images for training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import check_lows, option

__all__ = ["DataSettings"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Source, size, augmentation, split and batches of the images."""

    source: str = option(
        "digits", name="data",
        help="digits, cifar10, cifar100, fashion-mnist, npz:FILE, imagefolder:DIR, webdataset:DIR or hf:NAME",
    )  # fmt: skip
    root: Path = option(Path("data"), name="data_root", help="folder of downloaded datasets")
    image_size: int | None = option(
        None, low=1,
        help="resize images to this height and width in pixels; by default their own size, or for photographs of mixed "
        "sizes the median shorter side, as a multiple of 32 up to 224",
    )  # fmt: skip
    batch_size: int = option(64, low=1, help="images per batch and process")
    skip_corrupt: bool = option(
        False,
        help="skip unreadable images and report their number after the epoch, instead of stopping",
    )
    mixup: float = option(0.0, help="mix pairs of images and their labels (MixUp), alpha such as 0.2")
    cutmix: float = option(
        0.0,
        help="paste a patch of another image into each (CutMix), alpha such as 1; with --mixup, one per batch",
    )
    augment: Literal["auto", "crop-flip"] = option(
        "auto", metavar="KIND",
        help="random changes of training images: auto (those that suit the dataset; none for npz:FILE) or crop-flip "
        "(shifts and mirror images, also for npz:FILE)",
    )  # fmt: skip
    rand_augment: int | None = option(
        None, low=0, help="also augment training images by RandAugment of this magnitude, such as 9"
    )
    hold_out: float = option(
        0.0,
        help="share of the training images to keep for anywidth search and for scoring four widths after every "
        "epoch, such as 0.1; they are not trained on",
    )
    workers: int | None = option(
        None, low=0,
        help="processes that load images from disk; each has its own random augmentation, so the number affects the "
        "training; by default one per core, up to 4",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_lows(self)
        if not 0 <= self.hold_out < 1:
            raise SettingsError(f"--hold-out is {self.hold_out:g}; give a share from 0 to below 1, such as 0.1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"--{name} is {getattr(self, name):g}; give an alpha of 0 or more, such as 0.2")
