"""Errors about images, passed unchanged out of the worker processes that load them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any, cast

from torch.utils.data import Dataset

from anywidth.core.errors import DataError

__all__ = ["CarriedErrors", "collate_unless_error"]


class CarriedErrors(Dataset[Any]):
    """Dataset that returns an error instead of raising it.

    torch's `DataLoader` re-raises a worker's error with the worker's traceback as its message; a returned error keeps
    its own message.

    Args:
        dataset: Dataset whose items may raise `DataError`.

    >>> class Broken(Dataset):
    ...     def __getitem__(self, index):
    ...         raise DataError(f"cannot read image {index}.png")
    >>> CarriedErrors(Broken())[3]
    DataError('cannot read image 3.png')
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Any:
        """Item at an index, or the error about it."""
        try:
            return self.dataset[index]
        except DataError as error:
            return error


def collate_unless_error(items: Sequence[Any], *, collate: Callable[[Sequence[Any]], Any]) -> Any:
    """Result of `collate` for the items, or the first error among them.

    >>> collate_unless_error([1, 2], collate=sum)
    3
    """
    return next((item for item in items if isinstance(item, DataError)), None) or collate(items)
