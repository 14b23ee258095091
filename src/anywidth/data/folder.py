"""Dataset of image files, one folder per class."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from anywidth.core.errors import DataError, ImageError, first_line
from anywidth.data.bundle import DataBundle
from anywidth.data.photo_transforms import fitting_size, sampled_sides, test_transform, train_transform
from anywidth.data.split import stratified_split

__all__ = ["load_folder_bundle"]

_LAYOUT = "DIR/train/CLASS and DIR/val/CLASS (or DIR/test/CLASS), or DIR/CLASS"


def load_folder_bundle(
    folder: Path, *, seed: int, image_size: int | None = None, skip_corrupt: bool = False
) -> DataBundle:
    """RGB images of a folder, read from disk on demand.

    The folder contains `train/CLASS/*` and `val/CLASS/*` (or `test/CLASS/*`; `val` takes precedence). If it contains
    only `train/CLASS/*` or `CLASS/*`, each class is split into about 80% training and 20% test images. Training images
    are randomly cropped, resized and mirrored; test images are resized and center-cropped. All are normalized with the
    ImageNet statistics, which pretrained networks expect.

    Args:
        folder: The image folder.
        seed: Seed of the split.
        image_size: Height and width in pixels. None uses the median shorter side of the images, rounded down to a
            multiple of 32 and limited to 32 to 224: 224 for photographs, 32 for tiny images.
        skip_corrupt: Ignore unreadable images when choosing the size.

    Raises:
        DataError: The folder is missing, has no classes or a class without images, the two parts have different
            classes, or (on access) a file is not an image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        ...         Path(folder, name).parent.mkdir(exist_ok=True)
        ...         Image.new("RGB", (40, 40)).save(Path(folder, name))
        ...     bundle = load_folder_bundle(Path(folder), seed=0)
        >>> bundle.input_shape, bundle.classes
        ((3, 32, 32), ('cat', 'dog'))
    """
    train_dir, test_dir = _find_parts(folder)
    train = _open(train_dir)
    test = _open(test_dir or train_dir)
    if train.classes != test.classes:
        odd = ", ".join(sorted(set(train.classes) ^ set(test.classes)))
        raise DataError(f"{train_dir} and {test_dir} have different classes: {odd}; give both the same class folders")
    image_size = image_size or fitting_size(
        sampled_sides(len(train), lambda index: _side(train.samples[index][0]), skip_corrupt=skip_corrupt)
    )
    train.transform, test.transform = train_transform(image_size), test_transform(image_size)
    train_set, test_set = train, test
    if test_dir is None:
        parts = stratified_split(train.targets, seed=seed, where=f"image folder {train_dir}")
        train_set, test_set = Subset(train, parts[0].tolist()), Subset(test, parts[1].tolist())
    return DataBundle(
        name=f"imagefolder:{folder}",
        train=train_set,
        test=test_set,
        calibration=train_set,
        input_shape=(3, image_size, image_size),
        classes=tuple(train.classes),
    )


def _find_parts(folder: Path) -> tuple[Path, Path | None]:
    if not folder.is_dir():
        raise DataError(f"image folder {folder} does not exist; give imagefolder:DIR with {_LAYOUT}")
    # "train" may be a class (next to "bus"); it is a part only if it contains folders.
    parts = {name: folder / name for name in ("train", "val", "test") if _has_folders(folder / name)}
    test_dir = parts.get("val", parts.get("test"))
    if {"val", "test"} <= parts.keys():
        warnings.warn(f"{folder} has val/ and test/; val/ is used for testing, test/ is ignored", stacklevel=4)
    if "train" in parts:
        return parts["train"], test_dir
    if test_dir is not None:
        raise DataError(f"image folder {folder} has {test_dir.name}/ but no train/; the layout is {_LAYOUT}")
    if not _has_folders(folder):
        raise DataError(f"image folder {folder} has no class folders; the layout is {_LAYOUT}")
    return folder, None


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())


def _open(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(folder, loader=_read_image)
    except FileNotFoundError as error:
        raise DataError(f"image folder {folder}: {error}; add images or remove the class folder") from error


def _read_image(path: str) -> Image.Image:
    try:
        return default_loader(path)
    # Decoders raise many kinds of errors on damaged bytes; the user needs the path.
    except Exception as error:
        raise _unreadable(path, error) from error


def _side(path: str) -> int:
    try:
        with Image.open(path) as image:
            return min(image.size)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> ImageError:
    why = "it is damaged or not an image" if isinstance(error, UnidentifiedImageError) else first_line(error)
    return ImageError(
        f"cannot read image {path}: {why}; replace or remove the file, or skip unreadable images with --skip-corrupt"
    )
