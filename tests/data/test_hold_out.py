"""The part of the training images that is not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from anywidth.core.errors import DataError
from anywidth.data import DataBundle, TensorImages, hold_out, load_data


def test_no_image_is_in_both_parts_and_test_images_stay() -> None:
    bundle = load_data("digits")
    rest, held = hold_out(bundle, 0.2, seed=3)
    assert isinstance(held, TensorImages)
    assert isinstance(rest.train, TensorImages)
    assert isinstance(bundle.train, TensorImages)
    assert rest.calibration is rest.train
    assert rest.test is bundle.test
    together = torch.cat([rest.train.images, held.images]).flatten(1)
    order = np.lexsort(together.numpy().T)
    expected = bundle.train.images.flatten(1)
    assert torch.equal(
        together[torch.from_numpy(order.copy())], expected[torch.from_numpy(np.lexsort(expected.numpy().T))]
    )
    assert len(held) == round(0.2 * len(bundle.train))
    assert held.augment is None
    assert rest.train.augment is not None
    share = torch.bincount(held.labels) / torch.bincount(bundle.train.labels)
    assert ((share > 0.17) & (share < 0.23)).all()
    again = hold_out(bundle, 0.2, seed=3)[1]
    other = hold_out(bundle, 0.2, seed=4)[1]
    assert isinstance(again, TensorImages)
    assert isinstance(other, TensorImages)
    assert torch.equal(again.images, held.images)
    assert not torch.equal(other.images, held.images)


@pytest.mark.parametrize("parts", [True, False])
def test_images_of_a_folder_are_not_augmented(tmp_path: Path, parts: bool) -> None:
    random = np.random.default_rng(0)
    for part in ("train", "val") if parts else (".",):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(10):
                Image.fromarray(random.integers(0, 256, (40, 36, 3), np.uint8)).save(folder / f"{index}.png")
    bundle = load_data(f"imagefolder:{tmp_path}")
    rest, held = hold_out(bundle, 0.25)
    train = len(bundle.train)
    assert (len(rest.train), len(held)) == (train - round(0.25 * train), round(0.25 * train))
    assert torch.equal(held[0][0], held[0][0])
    assert not torch.equal(rest.train[0][0], rest.train[0][0])
    assert sorted({held[i][1] for i in range(len(held))}) == [0, 1]


class Anything(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return torch.zeros(1, 4, 4), index % 2


def test_what_cannot_be_held_out_is_told() -> None:
    bundle = load_data("digits")
    for share in (0.0, 1.0, -0.5, 0.999):
        with pytest.raises(DataError, match="cannot hold out"):
            hold_out(bundle, share)
    other = DataBundle(
        name="mine",
        train=Anything(),
        test=Anything(),
        calibration=Anything(),
        input_shape=(1, 4, 4),
        classes=("a", "b"),
    )
    with pytest.raises(DataError, match="labels of 'mine' cannot be read"):
        hold_out(other, 0.5)
