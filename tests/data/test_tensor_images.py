"""Images in one tensor, and their augmentation."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from anywidth.core.errors import DataError
from anywidth.data import TensorImages
from anywidth.data.augment import random_affine, random_crop_flip
from anywidth.data.statistics import channel_statistics


def test_item_equals_its_row_of_a_batch() -> None:
    pixels = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8)
    mean, std = channel_statistics(pixels)
    images = TensorImages(pixels, torch.arange(6), mean=mean, std=std)
    inputs, labels = images.take(torch.tensor([4, 0]))
    assert inputs.dtype == torch.float32
    assert labels.tolist() == [4, 0]
    assert torch.equal(images[4][0], inputs[0])
    assert torch.equal(images.tensors[0][[4, 0]], inputs)
    assert images.input_shape == (3, 5, 7)


def test_iterating_ends_at_the_last_image() -> None:
    images = TensorImages(torch.zeros(3, 1, 2, 2), torch.arange(3))
    assert [images[index][1] for index in range(len(images))] == [0, 1, 2]
    with pytest.raises(IndexError):
        images[3]


def test_nothing_changes_the_stored_images() -> None:
    pixels = torch.rand(4, 1, 8, 8)
    before = pixels.clone()
    images = TensorImages(
        pixels, torch.arange(4), mean=torch.tensor([0.5]), augment=partial(random_crop_flip, padding=2), image_size=4
    )
    images.take(torch.arange(4))
    assert images.tensors[0].shape == (4, 1, 4, 4)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_statistics_are_those_of_the_pixels(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (50, 2, 4, 4)).to(dtype)
    mean, std = channel_statistics(pixels)
    exact = pixels.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, exact.mean(1).float())
    torch.testing.assert_close(std, exact.std(1, correction=0).float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_constant_channel_is_not_divided_by_zero(dtype: torch.dtype) -> None:
    _, std = channel_statistics(torch.full((2, 1, 3, 3), 7, dtype=dtype))
    assert std.tolist() == [1.0]


def test_images_move_with_all_that_is_done_to_them() -> None:
    images = TensorImages(
        torch.rand(6, 3, 8, 8), torch.arange(6), mean=torch.rand(3), std=torch.rand(3) + 1,
        augment=partial(random_crop_flip, padding=2), image_size=4,
    )  # fmt: skip
    indices = torch.tensor([1, 4])
    moved = images.to(torch.device("cpu"))
    for ours, theirs in zip(
        images.take(indices, generator=torch.Generator().manual_seed(0)),
        moved.take(indices, generator=torch.Generator().manual_seed(0)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    assert moved.input_shape == images.input_shape


def test_crop_flip_gives_windows_of_the_padded_image() -> None:
    images = torch.arange(1, 1 + 2 * 4 * 4, dtype=torch.uint8).view(1, 2, 4, 4).repeat(64, 1, 1, 1)
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    possible = {tuple(w.flatten().tolist()) for window in windows for w in (window, window.flip(-1))}
    seen = {tuple(image.flatten().tolist()) for image in random_crop_flip(images, padding=1)}
    assert seen <= possible
    assert len(seen) > 6


def test_affine_turns_resizes_and_shifts_about_the_middle() -> None:
    image = torch.zeros(1, 2, 9, 9)
    image[:, :, 4, 4] = 1
    still = random_affine(image, degrees=0, scale=0, shift=0)
    torch.testing.assert_close(still, image)
    turned = random_affine(image.repeat(32, 1, 1, 1), degrees=90, scale=0.2, shift=0)
    assert bool((turned[:, :, 4, 4] == turned.amax((2, 3))).all())  # the middle stays where it is
    moved = random_affine(image.repeat(64, 1, 1, 1), degrees=0, scale=0, shift=2)
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = places // 9 - 4, places % 9 - 4
    assert rows.unique().tolist() == columns.unique().tolist() == [-2, -1, 0, 1, 2]
    torch.testing.assert_close(moved.sum((2, 3)), torch.ones(64, 2))  # interpolated, and nothing fell out


@pytest.mark.parametrize(
    "augment",
    [partial(random_crop_flip, padding=2), partial(random_affine, degrees=10, scale=0.1, shift=1)],
    ids=["crop-flip", "affine"],
)
def test_augmentation_draws_from_its_generator_alone(augment: Callable[..., Tensor]) -> None:
    images = torch.rand(8, 1, 6, 6)
    state = torch.get_rng_state()
    first, again = (augment(images, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert not torch.equal(first, images)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2).long(), r"shape \(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4).long(), torch.zeros(2).long(), "int64; give uint8 or floating"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2), "one integer per image"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(3).long(), "2 images but 3 labels"),
        (torch.zeros(0, 1, 4, 4), torch.zeros(0).long(), "no image"),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, -1]), "label 1 is -1"),
        (torch.full((2, 1, 4, 4), torch.nan), torch.zeros(2).long(), "2 of 2 images contain NaN"),
    ],
)
def test_refuses(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TensorImages(images, labels)
