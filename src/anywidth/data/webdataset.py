"""Images in WebDataset tar files: a few large files instead of a million small ones."""

from __future__ import annotations

import io
import json
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from anywidth.core.errors import DataError, ImageError
from anywidth.data.bundle import DataBundle
from anywidth.data.photo_transforms import fitting_size, sampled_sides, test_transform, train_transform
from anywidth.data.split import stratified_split

__all__ = ["ShardImages", "load_webdataset_bundle"]

_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff"}
_TESTS = ("val", "validation", "test")
_HEADER = 512


class ShardImages(Dataset[tuple[Tensor, int]]):
    """Labelled RGB images of one or more shards, read in place.

    A sample is `KEY.jpg` (or another image format) and `KEY.cls`, its class number; other members are ignored. The
    offsets of all images are found once, by reading only the headers of the shards.

    Args:
        shards: The tar files.
        transform: Converts an image to a tensor; must be set before an image is read.

    Raises:
        DataError: a shard is missing, truncated or empty, a sample lacks its image or label, or (on access) an image is
            damaged.
    """

    def __init__(self, shards: list[Path], transform: Callable[[Any], Tensor] | None = None) -> None:
        self.shards = shards
        self.transform = transform
        # Arrays, because lists of a million numbers would be copied into every worker process.
        self.shard, self.offset, self.size = array("q"), array("q"), array("q")
        self.targets = array("q")
        for number, shard in enumerate(shards):
            for offset, size, label in _samples(shard):
                for column, value in (
                    (self.shard, number), (self.offset, offset), (self.size, size), (self.targets, label),
                ):  # fmt: skip
                    column.append(value)

    def __len__(self) -> int:
        return len(self.targets)

    def picture(self, index: int) -> Image.Image:
        """The image at an index, as stored."""
        shard, offset = self.shards[self.shard[index]], self.offset[index]
        try:
            with shard.open("rb") as file:
                file.seek(offset)
                return Image.open(io.BytesIO(file.read(self.size[index]))).convert("RGB")
        # Decoders raise many kinds of errors on damaged bytes; the user needs the location.
        except Exception as error:
            raise ImageError(
                f"cannot read image {_name(shard, offset)} of {shard}: {error}; replace or remove it"
            ) from error

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image `(3, height, width)` and its label."""
        assert self.transform is not None
        return self.transform(self.picture(index)), self.targets[index]


def load_webdataset_bundle(
    folder: Path, *, seed: int, image_size: int | None = None, skip_corrupt: bool = False
) -> DataBundle:
    """Images from a folder of shards, with the transforms of image folders.

    The folder contains `*train*.tar` and `*val*.tar` (or `*test*.tar`), numbered without gaps, and optionally
    `classes.json`, the class names in the order of their numbers. Without test shards, about 20% of every class are
    split off.

    Args:
        folder: Folder of the shards.
        seed: Seed of the split.
        image_size: Height and width in pixels; None chooses a size that fits the images, up to 224.
        skip_corrupt: Ignore unreadable images when choosing the size.

    Raises:
        DataError: the folder or a shard is missing, or for the reasons given in `ShardImages`.
    """
    parts = _find(folder)
    train = ShardImages(parts["train"])
    tests = next((parts[name] for name in _TESTS if name in parts), None)
    test = ShardImages(parts["train"] if tests is None else tests)
    classes = _classes(folder, max(train.targets))
    for part in (train, test):
        if max(part.targets) >= len(classes) or min(part.targets) < 0:
            raise DataError(f"{folder}: labels range from {min(part.targets)} to {max(part.targets)}, but there are "
                            f"{len(classes)} classes, numbered from 0")  # fmt: skip
    size = image_size or fitting_size(
        sampled_sides(len(train), lambda index: min(train.picture(index).size), skip_corrupt=skip_corrupt)
    )
    train.transform, test.transform = train_transform(size), test_transform(size)
    train_set: Dataset[Any] = train
    test_set: Dataset[Any] = test
    if tests is None:
        kept, held = stratified_split(train.targets, seed=seed, where=f"webdataset:{folder}")
        train_set, test_set = Subset(train, kept.tolist()), Subset(test, held.tolist())
    return DataBundle(
        name=f"webdataset:{folder}", train=train_set, test=test_set, calibration=train_set,
        input_shape=(3, size, size), classes=classes,
    )  # fmt: skip


def _find(folder: Path) -> dict[str, list[Path]]:
    """Shards of every part, in order."""
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; give webdataset:DIR, a folder of train-0000.tar, ..., val-0000.tar")
    parts: dict[str, list[Path]] = {}
    for shard in sorted(folder.glob("*.tar")):
        words = [name for name in ("train", *_TESTS) if re.search(rf"(^|[-_.]){name}($|[-_.\d])", shard.stem)]
        if words:
            parts.setdefault(words[0], []).append(shard)
    if "train" not in parts:
        raise DataError(f"{folder} has no training shards; name them train-0000.tar, train-0001.tar, ...")
    for shards in parts.values():
        _check_numbers(shards)
    return parts


def _check_numbers(shards: list[Path]) -> None:
    found = [re.search(r"(\d+)$", shard.stem) for shard in shards]
    numbers = {int(match[1]) for match in found if match}
    missing = sorted(set(range(min(numbers, default=0), max(numbers, default=-1) + 1)) - numbers)
    if missing:
        raise DataError(
            f"{shards[0].parent}: number {missing[0]} is missing between {shards[0].name} and {shards[-1].name}; "
            "download the shard, or renumber the others"
        )


def _samples(shard: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, length and label of each image in a shard."""
    key: str | None = None
    image: tuple[int, int] | None = None
    label: int | None = None
    count = 0

    def finished() -> tuple[int, int, int]:
        if image is None or label is None:
            lacks = "image" if image is None else "label (KEY.cls)"
            raise DataError(f"{shard}: sample {key!r} has no {lacks}; pack the shard again")
        return (*image, label)

    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                kind = ending.rpartition(".")[2].lower()
                if kind not in _IMAGES and kind != "cls":
                    continue
                if key != f"{folder}/{stem}":
                    if key is not None:
                        yield finished()
                        count += 1
                    key, image, label = f"{folder}/{stem}", None, None
                if kind == "cls":
                    label = _label(tar, member, shard)
                else:
                    image = member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"cannot read shard {shard}: {error}; it is truncated or not a tar file, download again"
        ) from error
    if key is None:
        raise DataError(f"shard {shard} contains no images; remove it, or download it again")
    yield finished()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    file = tar.extractfile(member)
    text = b"" if file is None else file.read(64)
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{shard}: the label {member.name} is {text!r}; it must be a class number") from None


def _name(shard: Path, offset: int) -> str:
    """Name of the member whose content begins at an offset."""
    with shard.open("rb") as file:
        file.seek(offset - _HEADER)
        return file.read(100).rstrip(b"\0").decode(errors="replace")


def _classes(folder: Path, highest: int) -> tuple[str, ...]:
    file = folder / "classes.json"
    if not file.exists():
        return tuple(str(number) for number in range(highest + 1))
    try:
        names = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}; give a list of names, in the order of the labels") from error
    if not isinstance(names, list) or not names:
        raise DataError(f"{file} is not a list of names; write one, in the order of the labels")
    return tuple(map(str, names))
