"""Small data sets on the device that trains."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from anywidth.data import DataBundle, TensorImages, load_data, resident
from anywidth.data.augment import random_affine, random_crop_flip

META = torch.device("meta")
"""A device without numbers, which stands for a GPU here."""


def test_batches_are_augmented_where_they_are() -> None:
    images = torch.ones(2, 1, 8, 8, device=META)
    assert random_affine(images, degrees=10, scale=0.1, shift=0.5).device == META
    assert random_crop_flip(images, padding=2).device == META


def test_images_in_memory_are_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[TensorImages, torch.device]] = []

    def to(self: TensorImages, device: torch.device) -> TensorImages:
        moved.append((self, device))
        return self

    monkeypatch.setattr(TensorImages, "to", to)
    bundle = load_data("digits")
    found = resident(bundle, META)
    assert found.calibration is found.train
    assert moved == [(bundle.train, META), (bundle.test, META)]
    assert resident(bundle, torch.device("cpu")) is bundle


def test_large_sets_and_files_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_data("digits")
    monkeypatch.setitem(resident.__globals__, "_LARGEST", 1000)
    assert resident(bundle, META) is bundle
    items = TensorDataset(torch.rand(2, 1, 8, 8), torch.arange(2))
    read = DataBundle(name="mine", train=items, test=items, calibration=items, input_shape=(1, 8, 8), classes=("a",))
    assert resident(read, META) is read
