"""What a data bundle refuses."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from anywidth.core.errors import DataError
from anywidth.data import DataBundle, TensorImages


def bundle(**changes: object) -> DataBundle:
    images = TensorImages(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    parts: dict[str, object] = {
        "name": "mine",
        "train": images,
        "test": images,
        "calibration": images,
        "input_shape": (1, 4, 4),
        "classes": ("a", "b"),
    }
    return DataBundle(**(parts | changes))  # pyright: ignore[reportArgumentType]


class Empty(Dataset[int]):
    def __len__(self) -> int:
        return 0


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(())


def test_bundle_is_frozen() -> None:
    with pytest.raises(AttributeError):
        bundle().name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": Empty()}, "'mine': test is empty"),
        ({"train": Stream()}, "'mine': train has no length"),
        ({"input_shape": (1, 4)}, r"input_shape is \(1, 4\)"),
        ({"input_shape": (1, 0, 4)}, "each at least 1"),
        ({"classes": ()}, "no class names"),
    ],
)
def test_bundle_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        bundle(**changes)
