"""Hugging Face datasets from the hub or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from anywidth.core.errors import DataError, ImageError, first_line
from anywidth.core.extras import from_extra
from anywidth.data.bundle import DataBundle
from anywidth.data.photo_transforms import fitting_size, sampled_sides, test_transform, train_transform
from anywidth.data.split import stratified_split

__all__ = ["HubImages", "load_hub_bundle"]

_TESTS = ("test", "validation", "valid", "val")


class HubImages(Dataset[tuple[Tensor, int]]):
    """Labelled RGB images of one split, read on demand.

    Args:
        split: A `datasets.Dataset`.
        targets: Labels of the split, read once because reading the column takes long.
        image: Name of the image column.
        transform: Converts an image to a tensor.
        where: Name of the dataset in messages.
    """

    def __init__(self, split: Any, targets: list[int], *, image: str, transform: v2.Compose, where: str) -> None:
        self.split, self.targets, self.image, self.transform, self.where = split, targets, image, transform, where

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image `(3, height, width)` and its label."""
        picture = _picture(self.split, index, self.image, self.where)
        return self.transform(picture), self.targets[index]


def _picture(split: Any, index: int, image: str, where: str) -> Image.Image:
    try:
        return split[int(index)][image].convert("RGB")
    # Decoders raise many kinds of errors on damaged bytes; the user needs the index.
    except Exception as error:
        raise ImageError(f"{where}: cannot read image {index}: {error}; replace or remove it") from error


def load_hub_bundle(
    name: str, *, seed: int, image_size: int | None = None, download: bool = True, skip_corrupt: bool = False
) -> DataBundle:
    """Images and labels of a Hugging Face dataset, with the transforms of image folders.

    The split `train` is used for training, and `test` or else `validation` for testing. Without either, about 20% of
    every class are split off.

    Args:
        name: Name of a dataset on the hub, or a folder that `save_to_disk` wrote or `load_dataset` reads.
        seed: Seed of the split.
        image_size: Height and width in pixels; None chooses a size that fits the images, up to 224.
        download: Whether to download datasets that are not cached.
        skip_corrupt: Ignore unreadable images when choosing the size.

    Raises:
        DataError: the dataset does not exist, or it has no images with class labels.
        MissingExtraError: `datasets` is not installed.
    """
    where = f"dataset hf:{name}"
    splits = _open(name, where, download=download)
    if "train" not in splits:
        raise DataError(f"{where} has no train split, only {', '.join(splits)}")
    train = splits["train"]
    image, label = _column(train, "Image", where), _column(train, "ClassLabel", where)
    classes = tuple(train.features[label].names)
    labels: list[int] = list(train[label])
    if min(labels, default=0) < 0:
        raise DataError(f"{where}: some training images are unlabelled (-1); remove them")
    if image_size is None:
        image_size = fitting_size(
            sampled_sides(
                len(train), lambda index: min(_picture(train, index, image, where).size), skip_corrupt=skip_corrupt
            )
        )

    def images(split: Any, targets: list[int], transform: v2.Compose) -> HubImages:
        return HubImages(split, targets, image=image, transform=transform, where=where)

    test = _test_split(splits, label)
    train_set: Dataset[Any] = images(train, labels, train_transform(image_size))
    if test is None:
        parts = stratified_split(labels, seed=seed, where=where)
        train_set = Subset(train_set, parts[0].tolist())
        test_set: Dataset[Any] = Subset(images(train, labels, test_transform(image_size)), parts[1].tolist())
    else:
        test_set = images(*test, test_transform(image_size))
    return DataBundle(
        name=f"hf:{name}", train=train_set, test=test_set, calibration=train_set,
        input_shape=(3, image_size, image_size), classes=classes,
    )  # fmt: skip


def _open(name: str, where: str, *, download: bool) -> dict[str, Any]:
    with from_extra("hub", f"{where} needs Hugging Face datasets"):
        import datasets
    folder = Path(name).expanduser()
    config = datasets.DownloadConfig(local_files_only=not download)
    try:
        if any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else name, download_config=config)
    # The library raises many kinds of errors, for example about the network or files that it cannot parse.
    except Exception as error:
        raise DataError(
            f"{where} cannot be opened: {first_line(error)}; give the name of a dataset or a folder"
        ) from error
    return {str(part): split for part, split in found.items()} if isinstance(found, dict) else {"train": found}


def _column(split: Any, kind: str, where: str) -> str:
    names = [name for name, feature in split.features.items() if type(feature).__name__ == kind]
    if not names:
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in split.features.items())
        raise DataError(f"{where} has no column of type {kind}, only {columns}; cast one with `cast_column`")
    preferred = [name for name in names if name in ("image", "img", "label", "fine_label")]
    return (preferred or names)[0]


def _test_split(splits: dict[str, Any], label: str) -> tuple[Any, list[int]] | None:
    """Test split and its labels; hubs also publish test images without labels, which are skipped."""
    for part in _TESTS:
        labels: list[int] = list(splits[part][label]) if part in splits else []
        if labels and min(labels) >= 0:
            return splits[part], labels
    return None
