"""The order of images in epochs."""

from typing import Any

import pytest
import torch

from anywidth.core.errors import DataError
from anywidth.data import BatchOrder


def epoch(order: BatchOrder) -> list[int]:
    return torch.cat(order.start_epoch()[0]).tolist()


def test_every_epoch_has_its_own_order_of_all_images() -> None:
    order = BatchOrder(100, batch_size=7, seed=1)
    first, second = epoch(order), epoch(order)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(100))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    order, resumed = (BatchOrder(100, batch_size=7, seed=1) for _ in range(2))
    epochs = [epoch(order) for _ in range(3)]
    torch.rand(10)
    resumed.set_epoch(2)
    assert epoch(resumed) == epochs[2]
    assert epoch(BatchOrder(100, batch_size=7, seed=2)) != epochs[0]


def test_augmentation_differs_between_epochs_and_processes_but_repeats() -> None:
    def draw(rank: int, number: int) -> float:
        order = BatchOrder(8, batch_size=2, rank=rank, world_size=2)
        order.set_epoch(number)
        return torch.rand((), generator=order.start_epoch()[1]).item()

    assert draw(0, 0) == draw(0, 0)
    assert len({draw(0, 0), draw(1, 0), draw(0, 1), draw(1, 1)}) == 4


def test_one_order_for_all_epochs() -> None:
    order = BatchOrder(50, batch_size=8, shuffle="once")
    assert epoch(order) == epoch(order) != list(range(50))


def test_order_of_the_data_set() -> None:
    assert epoch(BatchOrder(50, batch_size=8, shuffle="never")) == list(range(50))


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_last_batch(drop_last: bool, sizes: list[int]) -> None:
    order = BatchOrder(10, batch_size=4, drop_last=drop_last)
    assert [len(batch) for batch in order.start_epoch()[0]] == sizes
    assert len(order) == len(sizes)


def test_processes_share_the_images() -> None:
    orders = [BatchOrder(11, batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    shares = [epoch(order) for order in orders]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert len({index for share in shares for index in share}) == 9
    assert [len(order) for order in orders] == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2, "seed": -1}, "seed is -1"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank is 2 with 2 processes"),
        ({"batch_size": 2, "shuffle": "sometimes"}, "choose epoch, once or never"),
        ({"batch_size": 8, "drop_last": True}, "do not fill a batch of 8"),
        ({"batch_size": 2, "world_size": 6}, "5 images over 6 processes"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        BatchOrder(5, **arguments)
