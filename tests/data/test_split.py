"""The split of a data set that comes in one piece."""

import numpy as np
import pytest

from anywidth.core.errors import DataError
from anywidth.data.split import stratified_split


def test_parts_are_disjoint_and_complete() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    train, test = stratified_split(labels, seed=1, where="x")
    assert sorted([*train, *test]) == list(range(100))
    assert np.bincount(labels[test]).tolist() == [10, 6, 4]


def test_share_of_the_test_part() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    train, test = stratified_split(labels, seed=1, where="x", test_share=0.5)
    assert sorted([*train, *test]) == list(range(100))
    assert np.bincount(labels[test]).tolist() == [25, 15, 10]


def test_two_images_per_class_are_enough() -> None:
    labels = np.arange(20) % 10
    train, test = stratified_split(labels, seed=0, where="x")
    assert sorted(labels[train]) == sorted(labels[test]) == list(range(10))


def test_single_image_of_a_class() -> None:
    with pytest.raises(DataError, match="faces: class 7 has only one image"):
        stratified_split([1, 1, 7], seed=0, where="faces")
