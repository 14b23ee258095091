"""Datasets that skip unreadable images and record them."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, NamedTuple, cast

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from anywidth.core.errors import DataError, ImageError

__all__ = ["SkipCorrupt", "collate_readable"]

_MOST_IN_A_ROW = 100


class Readable(NamedTuple):
    """An image and its label, or None for both, with the errors of unreadable images."""

    image: Tensor | None
    label: int | None
    problems: tuple[str, ...]


class SkipCorrupt(Dataset[Readable]):
    """Dataset that skips unreadable images.

    Args:
        dataset: Dataset whose items raise `ImageError` if an image cannot be read.
        replace: Return the next readable image instead, so that batches stay full and all processes have the same
            number of images; otherwise return None.

    Raises:
        DataError: 100 images in a row cannot be read.

    >>> class Broken(Dataset):
    ...     def __len__(self):
    ...         return 3
    ...     def __getitem__(self, index):
    ...         if index == 1:
    ...             raise ImageError("cannot read image b.png")
    ...         return index, index
    >>> SkipCorrupt(Broken(), replace=True)[1]
    Readable(image=2, label=2, problems=('cannot read image b.png',))
    """

    def __init__(self, dataset: Dataset[Any], *, replace: bool) -> None:
        self.dataset = dataset
        self.replace = replace

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Readable:
        """Image `(channels, height, width)` and label at an index, or those of the next readable image."""
        problems: list[str] = []
        for number in range(min(_MOST_IN_A_ROW, len(self)) if self.replace else 1):
            try:
                image, label = self.dataset[(index + number) % len(self)]
            except ImageError as error:
                problems.append(str(error))
            else:
                return Readable(image, label, tuple(problems))
        if self.replace:
            raise DataError(f"{len(problems)} images in a row cannot be read; the last: {problems[-1]}")
        return Readable(None, None, tuple(problems))


def collate_readable(items: Sequence[Readable]) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
    """Collate readable images `(batch, channels, height, width)` and labels `(batch,)`, or None, and the problems."""
    problems = tuple(problem for item in items for problem in item.problems)
    good = [(item.image, item.label) for item in items if item.image is not None]
    if not good:
        return None, None, problems
    images, labels = default_collate(good)
    return images, labels, problems
