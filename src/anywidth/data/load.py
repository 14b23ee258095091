"""From the name of a data set to the data set."""

from __future__ import annotations

from pathlib import Path

from anywidth.core.errors import DataError
from anywidth.data.bundle import DataBundle
from anywidth.data.checks import check_seed

__all__ = ["load_data"]

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
    skip_corrupt: bool = False,
) -> DataBundle:
    """The data set that a short text names.

    | spec | images | training transforms |
    |---|---|---|
    | `digits` | 1,797 grey 8x8 digits that come with scikit-learn | small turn, resize and shift |
    | `cifar10`, `cifar100` | 60,000 coloured 32x32 photographs | random crop, mirror |
    | `fashion-mnist` | 70,000 grey 28x28 pieces of clothing | random crop, mirror |
    | `npz:FILE` | arrays `x_train, y_train, x_test, y_test`, or `x, y` | none |
    | `hf:NAME` | a data set of Hugging Face with images and class labels, on the hub or in a folder | as below |
    | `imagefolder:DIR` | `DIR/train/CLASS/*` and `DIR/val/CLASS/*`, or `DIR/CLASS/*` | resized crop, mirror |
    | `webdataset:DIR` | tar files `DIR/train-0000.tar`, ..., `DIR/val-0000.tar` of `KEY.jpg` and `KEY.cls` | the same |

    All images are normalised. Sets other than image folders, shards and those of Hugging Face lie in memory, as
    `TensorImages`.

    Args:
        spec: One of the above. Paths are relative to the working folder; `~` is the home folder.
        root: The folder that holds downloaded sets, or gets them.
        seed: Chooses the split of sets that have none of their own (`digits`, `x, y`, `DIR/CLASS`); the same
            seed gives the same split.
        download: Whether CIFAR and Fashion-MNIST are fetched if they are not in `root`, and sets of Hugging Face
            if they are not in its cache.
        image_size: Height and width in pixels that images are resized to. None keeps the images' own size;
            for an image folder it chooses a size that fits, up to 224.
        skip_corrupt: Take no notice of images that cannot be read when that size is chosen; `make_loaders` has the
            like for reading them.

    Returns:
        The training, test and calibration images, with the shape of an image and the names of the classes.

    Raises:
        DataError: If the spec is unknown, or the data are missing, damaged or at odds.

    Example:
        >>> bundle = load_data("digits")
        >>> bundle.input_shape, len(bundle.train), len(bundle.test)
        ((1, 8, 8), 1438, 359)
    """
    check_seed(seed)
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise DataError(f"image_size is {image_size!r}; give a positive number of pixels")
    kind, _, path = spec.partition(":")
    if kind in _WITH_PATH:
        if not path:
            raise DataError(f"data set {spec!r} names no path; write {_WITH_PATH[kind]}")
        if kind == "hf":
            from anywidth.data.hugging_face import load_hub_bundle

            return load_hub_bundle(path, seed=seed, image_size=image_size, download=download, skip_corrupt=skip_corrupt)
        return _load_path(kind, Path(path).expanduser(), seed=seed, image_size=image_size, skip_corrupt=skip_corrupt)
    if spec not in _NAMED:
        known = ", ".join((*_NAMED, *_WITH_PATH.values()))
        raise DataError(f"unknown data set {spec!r}; choose one of {known}")
    # Imported late, as below: scikit-learn and torchvision take seconds, and a run needs one set.
    if spec == "digits":
        from anywidth.data.digits import load_digits_bundle

        return load_digits_bundle(seed=seed, image_size=image_size)
    from anywidth.data.torchvision_sets import load_torchvision_bundle

    return load_torchvision_bundle(spec, root=Path(root).expanduser(), download=download, image_size=image_size)


def _load_path(kind: str, path: Path, *, seed: int, image_size: int | None, skip_corrupt: bool) -> DataBundle:
    if kind == "npz":
        from anywidth.data.npz import load_npz_bundle

        return load_npz_bundle(path, seed=seed, image_size=image_size)
    if kind == "webdataset":
        from anywidth.data.webdataset import load_webdataset_bundle

        return load_webdataset_bundle(path, seed=seed, image_size=image_size, skip_corrupt=skip_corrupt)
    from anywidth.data.folder import load_folder_bundle

    return load_folder_bundle(path, seed=seed, image_size=image_size, skip_corrupt=skip_corrupt)
