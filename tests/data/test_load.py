"""Data sets by their spec."""

import pytest

from anywidth.core.errors import DataError
from anywidth.data import load_data


def test_unknown_spec_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown dataset 'mnist'.*digits, cifar10, .*npz:FILE") as caught:
        load_data("mnist")
    assert "imagefolder:DIR" in str(caught.value)


@pytest.mark.parametrize("spec", ["digits:8", "cifar10:x", "", ":x", "Digits"])
def test_malformed_spec_is_unknown(spec: str) -> None:
    with pytest.raises(DataError, match="unknown dataset"):
        load_data(spec)


@pytest.mark.parametrize(("spec", "form"), [("npz:", "npz:FILE"), ("imagefolder", "imagefolder:DIR")])
def test_spec_without_its_path(spec: str, form: str) -> None:
    with pytest.raises(DataError, match=f"needs a path; write {form}"):
        load_data(spec)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True])
def test_bad_seed(seed: int) -> None:
    with pytest.raises(DataError, match="seed is"):
        load_data("digits", seed=seed)


@pytest.mark.parametrize("size", [0, -8, 1.5])
def test_bad_image_size(size: int) -> None:
    with pytest.raises(DataError, match="image_size is"):
        load_data("digits", image_size=size)
