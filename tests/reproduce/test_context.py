"""Networks of experiments."""

from __future__ import annotations

import pytest
import torch

from anywidth.reproduce import Context, Setup
from anywidth.training.lightning import SandwichModule


def test_networks_are_analysed_on_a_real_image(tiny_data, tmp_path) -> None:
    context = Context(
        Setup(data=f"npz:{tiny_data}"), 0, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path / "state"
    )
    (example,) = context.supernet().inputs.args
    images, _ = next(iter(context.loaders().test))
    assert torch.equal(example, images[:1])
    assert float(example.std()) > 0


def test_weights_are_those_of_the_seed_and_no_random_number_is_used_up(tiny_data, tmp_path) -> None:
    context = Context(
        Setup(data=f"npz:{tiny_data}"), 3, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path / "state"
    )
    before = torch.random.get_rng_state()
    first, second = (dict(context.supernet().model.named_parameters()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["us_net", pytest.param("nested", marks=pytest.mark.slow)])
def test_experiments_share_networks_that_are_trained_alike(kind, tiny_data, tmp_path, monkeypatch) -> None:
    setup = Setup(data=f"npz:{tiny_data}", epochs=1, warmup_epochs=0.5)

    times: list[float] = []

    def trained(folder: str, *, seed: int = 0, changed: Setup = setup):
        context = Context(
            changed, seed, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path / folder,
            networks=tmp_path / "networks",
        )  # fmt: skip
        net = context.us_net() if kind == "us_net" else context.nested_net((0.5, 1.0))
        times.append(context.reused_seconds)
        return {name: tensor.clone() for name, tensor in net.model.state_dict().items()}

    first = trained("one")
    assert len(list((tmp_path / "networks").glob("*.ckpt"))) == 1
    own = Context(setup, 0, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path / "own")
    net = own.train(own.supernet(nested=None if kind == "us_net" else (0.5, 1.0)), "supernet")
    assert all(torch.equal(first[name], tensor) for name, tensor in net.model.state_dict().items())
    other = trained("three", seed=1), trained("four", changed=setup.changed(lr=0.05))
    assert all(any(not torch.equal(first[name], weights[name]) for name in first) for weights in other)
    assert len(list((tmp_path / "networks").glob("*.ckpt"))) == 3
    monkeypatch.setattr(SandwichModule, "training_step", None)  # nothing is trained again
    second = trained("two", changed=setup.changed(widths=3, seeds=5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert times[:3] == [0, 0, 0]
    assert times[3] > 0  # the training that the first context ran
