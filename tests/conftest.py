"""Fixtures for all tests: seeds, and the analysed models of the zoo."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import anywidth as aw
from anywidth.supernet import Statistics
from anywidth.widths import WidthSampler
from zoo import Case

# The models are tiny: a second thread costs more than it gives, and very much more where cores are shared.
torch.set_num_threads(1)

_PREPARED: dict[str, aw.Supernet] = {}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def supernet_of() -> Iterator[Callable[[Case], aw.Supernet]]:
    """Supernets of the zoo, analysed once per run and put back to their first state after every test."""
    used: dict[str, Case] = {}

    def get(case: Case) -> aw.Supernet:
        if case.name not in _PREPARED:
            with warnings.catch_warnings():
                if case.warns:
                    warnings.filterwarnings("ignore", message="only .* of the MACs")
                _PREPARED[case.name] = aw.Supernet(case.model(), case.example(), divisor=2)
        used[case.name] = case
        return _PREPARED[case.name]

    yield get
    for name, case in used.items():
        net = _PREPARED[name]
        state = case.model().state_dict()
        net.model.load_state_dict(state)
        net.model.requires_grad_(True).zero_grad(set_to_none=True)
        net.model.eval()
        net.statistics = Statistics(net.model)
        net._cache.clear()
        net.sampler = WidthSampler(net.min_width)
