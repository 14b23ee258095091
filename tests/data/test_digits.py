"""The embedded digits."""

import torch

from anywidth.data import DataBundle, TensorImages, load_data


def tensors(bundle: DataBundle) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    assert isinstance(bundle.train, TensorImages)
    assert isinstance(bundle.test, TensorImages)
    return *bundle.train.tensors, *bundle.test.tensors


def test_half_of_every_class_is_for_testing() -> None:
    images, labels, test_images, test_labels = tensors(load_data())
    assert images.shape == (899, 1, 8, 8)
    assert test_images.shape == (898, 1, 8, 8)
    share = test_labels.bincount() / (labels.bincount() + test_labels.bincount())
    assert len(share) == 10
    assert bool((share - 0.5).abs().max() < 0.01)


def test_normalised_by_the_training_part() -> None:
    images, _, test_images, _ = tensors(load_data("digits"))
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(correction=0), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert test_images.mean().abs() > 1e-5


def test_seed_fixes_the_split() -> None:
    first, again, other = (tensors(load_data("digits", seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


def test_items_and_description() -> None:
    bundle = load_data("digits")
    image, label = bundle.train[0]
    assert (image.shape, image.dtype, type(label)) == ((1, 8, 8), torch.float32, int)
    assert (bundle.name, bundle.input_shape, bundle.classes) == ("digits", (1, 8, 8), tuple("0123456789"))
    assert bundle.calibration is bundle.train


def test_image_size() -> None:
    bundle = load_data("digits", image_size=16)
    assert bundle.input_shape == (1, 16, 16)
    assert bundle.test[0][0].shape == (1, 16, 16)
