"""Networks of experiments."""

from __future__ import annotations

import torch

from anywidth.reproduce import Lab, Setup


def test_networks_are_analysed_on_a_real_image(tiny_data, tmp_path) -> None:
    lab = Lab(
        Setup(data=f"npz:{tiny_data}"), 0, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path / "state"
    )
    (example,) = lab.supernet().inputs.args
    images, _ = next(iter(lab.loaders().test))
    assert torch.equal(example, images[:1])
    assert float(example.std()) > 0


def test_weights_are_those_of_the_seed_and_no_random_number_is_used_up(tiny_data, tmp_path) -> None:
    lab = Lab(
        Setup(data=f"npz:{tiny_data}"), 3, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path / "state"
    )
    before = torch.random.get_rng_state()
    first, second = (dict(lab.supernet().model.named_parameters()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
