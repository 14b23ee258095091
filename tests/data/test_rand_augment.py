"""RandAugment in front of every kind of data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from anywidth.core.errors import DataError
from anywidth.data import DataBundle, TensorImages, hold_out, load_data
from anywidth.data.augment import random_crop_flip
from anywidth.data.rand_augment import with_rand_augment


def in_memory(dtype: torch.dtype = torch.uint8) -> DataBundle:
    pixels = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    images = TensorImages(
        pixels, torch.arange(20) % 2, augment=lambda x, generator: random_crop_flip(x, padding=2, generator=generator)
    )
    return DataBundle(
        name="mine", train=images, test=images, calibration=images, input_shape=(3, 16, 16), classes=("a", "b")
    )


def transform_of(images: Dataset) -> v2.Compose:
    return transform_of(images.dataset) if isinstance(images, Subset) else images.transform


def test_images_in_memory_are_changed_and_the_generator_decides_how() -> None:
    plain, changed = in_memory().train, with_rand_augment(in_memory()).train
    draws = [changed.take(torch.arange(20), generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    before = plain.take(torch.arange(20), generator=torch.Generator().manual_seed(1))[0]
    assert draws[0].shape == before.shape
    assert not torch.equal(draws[0], before)


def test_torchs_own_generator_is_left_alone() -> None:
    changed = with_rand_augment(in_memory()).train
    torch.manual_seed(0)
    state = torch.get_rng_state()
    changed.take(torch.arange(4), generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_calibration_and_test_images_stay_as_they_are() -> None:
    bundle = in_memory()
    changed = with_rand_augment(bundle)
    assert changed.calibration is bundle.calibration
    assert changed.test is bundle.test


def test_images_on_disk_are_changed_before_they_become_numbers(tmp_path) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                tmp_path / name / f"{number}.png"
            )
    bundle, held = hold_out(with_rand_augment(load_data(f"imagefolder:{tmp_path}")), 0.25, seed=0)
    names = [type(part).__name__ for part in transform_of(bundle.train).transforms]
    assert names.index("RandAugment") == names.index("PILToTensor") - 1
    assert bundle.train[0][0].shape == (3, 32, 32)
    assert "RandAugment" not in str(transform_of(held))


@pytest.mark.parametrize(("dtype", "magnitude", "text"), [(torch.float32, 9, "8-bit"), (torch.uint8, 31, "0 to 30")])
def test_what_cannot_be_augmented_is_told(dtype, magnitude, text) -> None:
    with pytest.raises(DataError, match=text):
        with_rand_augment(in_memory(dtype), magnitude=magnitude)
