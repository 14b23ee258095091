"""Two processes that train together do what one does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import anywidth as aw
import two_trained as two
from anywidth.data import make_loaders
from anywidth.evaluation import evaluate
from anywidth.training import same_start, sync_gradients
from two_processes import run_in_two


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return run_in_two(two.program, tmp_path_factory.mktemp("two"))


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= tolerance


def test_gradients_of_two_halves_are_those_of_the_whole_batch(found) -> None:
    net = two.supernet(two.plain_network())
    aw.sandwich_step(net, *two.batch(0, 1), widths=two.WIDTHS)
    for process in found:
        assert_close(process["gradients"], two.gradients(net), 1e-12)


def test_a_step_synchronises_once(found) -> None:
    assert [process["counted"] for process in found] == [{"all_reduce": 1}] * 2


def test_a_step_by_lightning_synchronises_once(found) -> None:
    for process in found:
        assert len(process["trained"]["collectives"]) >= 8
        assert all(step == {"all_reduce": 1} for step in process["trained"]["collectives"])
        # Whether a step is left out is for all to know.
        assert all(step == {"all_reduce": 2} for step in process["skipping"])


def test_a_nested_step_synchronises_once(found) -> None:
    net = two.nested(0, 1)
    later = net.shells.nesting.later["2.weight"]
    for process in found:
        assert_close(process["nested"], two.gradients(net), 1e-12)
        assert process["nested counted"] == {"all_reduce": 1}
        trained = process["trained nested"]
        assert len(trained["collectives"]) >= 8
        assert all(step == {"all_reduce": 1} for step in trained["collectives"])
        assert not any(bool(part.any()) for part in later.of(trained["weights"]["3.weight"]))
    first, second = (process["trained nested"] for process in found)
    assert_close(first["weights"], second["weights"], 0.0)
    assert first["accuracy"] == second["accuracy"]


def test_all_know_what_one_process_found(found) -> None:
    assert [process["any_rank"] for process in found] == [[True, False]] * 2


def test_batch_norms_of_switches_are_synchronised(found) -> None:
    halves = [[p.grad for p in two.switched(rank, 2).parameters()] for rank in (0, 1)]
    for process in found:
        for mean, *parts in zip(process["switches"], *halves, strict=True):
            torch.testing.assert_close(mean, (parts[0] + parts[1]) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sequential", [False, True])
def test_calibration_pools_what_all_have_seen(found, sequential) -> None:
    net = two.supernet(two.norm_network())
    loaders = make_loaders(two.data(), batch_size=8)
    aw.calibrate(net, loaders.calibration, [0.5], sequential=sequential)
    wanted = {n: b for n, b in net.subnet(0.5).named_buffers() if "running" in n}
    for process in found:
        assert_close(process[f"statistics {sequential}"], wanted, 1e-6)
    assert_close(found[0][f"statistics {sequential}"], found[1][f"statistics {sequential}"], 0.0)
    if sequential:
        assert evaluate(net, loaders.test, 0.5) == pytest.approx(found[0]["accuracy"])


def test_every_image_is_tested_once(found) -> None:
    assert sum(process["images"] for process in found) == 37
    assert found[0]["accuracy"] == found[1]["accuracy"]


def test_lightning_trains_one_network_in_two_processes(found) -> None:
    first, second = (process["trained"] for process in found)
    assert_close(first["weights"], second["weights"], 0.0)
    assert first["sampler"] == second["sampler"]
    assert first["accuracy"] == second["accuracy"]
    start = dict(two.norm_network().named_parameters())
    assert not torch.equal(first["weights"]["8.weight"], start["8.weight"])


def test_lightning_trains_the_same_switches_in_two_processes(found) -> None:
    first, second = (process["trained switches"] for process in found)
    assert first
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=0)


def test_different_networks_are_told(found) -> None:
    assert all("different networks" in process["different"] for process in found)


def test_alone_nothing_is_synchronised() -> None:
    net = two.supernet(two.plain_network())
    aw.sandwich_step(net, *two.batch(0, 1), widths=two.WIDTHS)
    before = two.gradients(net)
    sync_gradients(net.model.parameters())
    assert_close(two.gradients(net), before, 0.0)
    assert same_start(net.model, {"a": 1}) == {"a": 1}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_no_thread_of_a_group_outlives_it() -> None:
    # Those that do abort the process at its end, now and then. torch.compile and the optimizers import torch._dynamo.
    program = """
import anywidth.core.processes, os, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
import torch._dynamo
names = lambda: [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
assert any("gloo" in name for name in names())
dist.destroy_process_group()
assert not any("gloo" in name for name in names()), names()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
