"""A ladder of a nested network computes its widths in turn."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.core.errors import WidthError
from anywidth.serving import Ladder, measure_ladder
from proofs import assert_close
from zoo import Residual

WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def net() -> aw.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return aw.Supernet(Residual().eval(), torch.randn(1, 3, 8, 8), nested=(0.25, 0.5, 0.75, 1.0), divisor=4)


@pytest.fixture(scope="module")
def ladder(net: aw.Supernet) -> Ladder:
    return Ladder.share(net, WIDTHS, refine=True)


@torch.no_grad()
def test_every_width_answers_as_the_subnet(net, ladder):
    x = torch.randn(3, 3, 8, 8)
    assert ladder.widths == WIDTHS
    for width, (got,) in ladder.refinement([x.numpy()]):
        assert_close(torch.from_numpy(got), net.subnet(width)(x), 1e-5)
    for width in WIDTHS[::-1]:
        assert_close(torch.from_numpy(ladder.run([x.numpy()], width=width)[0]), net.subnet(width)(x), 1e-5)


def test_a_batch_that_is_left_early_makes_room_for_the_next(net, ladder):
    first, second = (np.random.default_rng(seed).normal(size=(2, 3, 8, 8)).astype(np.float32) for seed in (0, 1))
    with closing(ladder.refinement([first])) as answers:
        next(answers)
    with torch.no_grad():
        assert_close(
            torch.from_numpy(ladder.run([second], width=0.5)[0]), net.subnet(0.5)(torch.from_numpy(second)), 1e-5
        )


def test_threads_take_turns(ladder):
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    wanted = {width: outputs[0] for width, outputs in ladder.refinement([x])}
    wrong: list[float] = []

    def work(width: float) -> None:
        for _ in range(10):
            if not np.allclose(ladder.run([x], width=width)[0], wanted[width], atol=1e-6):
                wrong.append(width)

    threads = [threading.Thread(target=work, args=(width,)) for width in WIDTHS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_its_times_are_those_of_refinement(ladder):
    times = measure_ladder(ladder, rows=2, rounds=1)
    assert times.widths == WIDTHS
    assert 0 < times.seconds(0.25, 1) <= times.seconds(1.0, 1)


def test_what_cannot_be_refined_is_refused(net):
    plain = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    with pytest.raises(WidthError, match="not nested"):
        Ladder.share(plain, [0.5, 1.0], refine=True)
