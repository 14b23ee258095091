"""Datasets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anywidth.core.errors import DataError
from anywidth.data.bundle import DataBundle
from anywidth.data.checks import check_seed

__all__ = ["CROP_FLIP", "Augment", "load_data"]

Augment = Literal["auto", "crop-flip"]
"""Random changes of training images: those that suit the dataset, or shifts and mirror images."""

CROP_FLIP = ("npz", "cifar10", "cifar100", "fashion-mnist")
"""Kinds of datasets that can be cropped and mirrored at random."""

_NAMED = ("digits", "cifar10", "cifar100", "fashion-mnist")
_WITH_PATH = {
    "npz": "npz:FILE", "imagefolder": "imagefolder:DIR", "webdataset": "webdataset:DIR", "hf": "hf:NAME"
}  # fmt: skip


def load_data(
    spec: str = "digits",
    *,
    root: str | Path = "data",
    seed: int = 0,
    download: bool = True,
    image_size: int | None = None,
    augment: Augment = "auto",
    skip_corrupt: bool = False,
) -> DataBundle:
    """Load a dataset by name.

    | spec | images | training transforms |
    |---|---|---|
    | `digits` | 1,797 grayscale 8x8 digits from scikit-learn | small rotation, resize and shift |
    | `cifar10`, `cifar100` | 60,000 color 32x32 photographs | random crop, mirror |
    | `fashion-mnist` | 70,000 grayscale 28x28 images of clothing | random crop, mirror |
    | `npz:FILE` | arrays `x_train, y_train, x_test, y_test`, or `x, y` | none |
    | `hf:NAME` | a Hugging Face dataset with images and class labels, on the hub or in a folder | as below |
    | `imagefolder:DIR` | `DIR/train/CLASS/*` and `DIR/val/CLASS/*`, or `DIR/CLASS/*` | resized crop, mirror |
    | `webdataset:DIR` | tar files `DIR/train-0000.tar`, ..., `DIR/val-0000.tar` of `KEY.jpg` and `KEY.cls` | the same |

    All images are normalized. Image folders, shards and Hugging Face datasets are read from disk; all others are kept
    in memory as `TensorImages`.

    Args:
        spec: One of the above. Paths are relative to the working directory; `~` is the home directory.
        root: Folder of downloaded datasets.
        seed: Seed of the split of datasets without one (`digits`, `x, y`, `DIR/CLASS`); the same seed gives the same
            split.
        download: Whether to download CIFAR and Fashion-MNIST if they are not in `root`, and Hugging Face datasets if
            they are not cached.
        image_size: Height and width in pixels to resize images to. None keeps their size; for an image folder, it
            chooses a size that fits the images, up to 224.
        augment: `auto` applies the transforms of the table; `crop-flip` applies random crops and mirrors to the
            images of `npz:FILE`, too.
        skip_corrupt: Ignore unreadable images when choosing the size. `make_loaders` has a similar option for reading
            them.

    Returns:
        Training, test and calibration images, with the image shape and the class names.

    Raises:
        DataError: The name is unknown, or the data is missing, damaged or inconsistent.

    Example:
        >>> bundle = load_data("digits")
        >>> bundle.input_shape, len(bundle.train), len(bundle.test)
        ((1, 8, 8), 899, 898)
    """
    check_seed(seed)
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise DataError(f"image_size is {image_size!r}; give a positive number of pixels")
    kind, _, path = spec.partition(":")
    if augment == "crop-flip" and kind not in CROP_FLIP:
        raise DataError(
            f"{kind} has augmentation of its own; crop-flip is for npz:FILE (--augment auto keeps what suits the data)"
        )
    if kind in _WITH_PATH:
        if not path:
            raise DataError(f"dataset {spec!r} needs a path; write {_WITH_PATH[kind]}")
        if kind == "hf":
            from anywidth.data.hugging_face import load_hub_bundle

            return load_hub_bundle(path, seed=seed, image_size=image_size, download=download, skip_corrupt=skip_corrupt)
        return _load_path(
            kind, Path(path).expanduser(), seed=seed, image_size=image_size, crop_flip=augment == "crop-flip",
            skip_corrupt=skip_corrupt,
        )  # fmt: skip
    if spec not in _NAMED:
        known = ", ".join((*_NAMED, *_WITH_PATH.values()))
        raise DataError(f"unknown dataset {spec!r}; choose one of {known}")
    # Imported late: scikit-learn and torchvision take seconds to import, and a run needs one dataset.
    if spec == "digits":
        from anywidth.data.digits import load_digits_bundle

        return load_digits_bundle(seed=seed, image_size=image_size)
    from anywidth.data.torchvision_sets import load_torchvision_bundle

    return load_torchvision_bundle(spec, root=Path(root).expanduser(), download=download, image_size=image_size)


def _load_path(
    kind: str, path: Path, *, seed: int, image_size: int | None, crop_flip: bool, skip_corrupt: bool
) -> DataBundle:
    if kind == "npz":
        from anywidth.data.npz import load_npz_bundle

        return load_npz_bundle(path, seed=seed, image_size=image_size, crop_flip=crop_flip)
    if kind == "webdataset":
        from anywidth.data.webdataset import load_webdataset_bundle

        return load_webdataset_bundle(path, seed=seed, image_size=image_size, skip_corrupt=skip_corrupt)
    from anywidth.data.folder import load_folder_bundle

    return load_folder_bundle(path, seed=seed, image_size=image_size, skip_corrupt=skip_corrupt)
