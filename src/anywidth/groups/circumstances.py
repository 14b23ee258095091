"""Other branches of a forward, by random numbers of Python and NumPy."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import nn

from anywidth.core.errors import AnalysisError
from anywidth.core.generators import generators_kept, seed_generators
from anywidth.core.inputs import Inputs, double_batch
from anywidth.groups.branches import names_in_code
from anywidth.groups.capture import Capture, capture
from anywidth.groups.probe import calls_of

__all__ = ["other_captures"]

Circumstance = Callable[[], AbstractContextManager[object]]

_DRAWING = ("random", "rand", "uniform", "randint", "randrange", "choice", "choices", "binomial", "normal", "shuffle")
"""Names in code that may draw random numbers of Python or NumPy."""

_SEEDS = 8
_MOST = 6
"""Maximum number of branches to capture in addition."""


def other_captures(model: nn.Module, inputs: Inputs, captures: Sequence[Capture], *, whole: bool) -> list[Capture]:
    """The graphs of a forward with random numbers with which it calls other functions.

    A graph takes one branch. A forward that drops layers with `random.random()` takes others later, and their channels
    have to hang together in the same way.

    Args:
        model: The model.
        inputs: Example inputs.
        captures: The graphs of the usual branch.
        whole: Whether the usual branch in training could be captured, if it differs.

    Raises:
        AnalysisError: a branch cannot be captured.
    """
    names = names_in_code(model)
    found: list[Capture] = []
    for training in (False, True) if names.intersection(_DRAWING) else ():
        if training and not any(capture.training for capture in captures):
            inputs = double_batch(inputs)  # batch norms cannot train on one sample
        draws = _draws(model, inputs, training=training)
        known: list[Any] = []  # nobody knows which branch was captured
        for circumstance in _circumstances() if draws else ():
            calls = calls_of(model, inputs, training=training, around=circumstance)
            if calls is None or calls in known or len(found) == _MOST:
                continue
            known.append(calls)
            try:
                with circumstance():
                    found.append(capture(model, inputs, training=training))
            except AnalysisError as error:
                if training and not whole:
                    continue
                raise AnalysisError(
                    f"the forward of {type(model).__name__} takes another branch for other random numbers of Python or "
                    f"NumPy, which cannot be captured: {error}"
                ) from error
    return found


def _draws(model: nn.Module, inputs: Inputs, *, training: bool) -> bool:
    """Whether a forward draws random numbers of Python or NumPy."""
    with generators_kept():
        before = random.getstate(), np.random.get_state()
        calls_of(model, inputs, training=training)
        after = random.getstate(), np.random.get_state()
    return before[0] != after[0] or not all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def _circumstances() -> Iterator[Circumstance]:
    yield partial(_extreme, 0.0)
    yield partial(_extreme, 1.0 - 2**-53)
    yield from (partial(_seeded, seed) for seed in range(1, _SEEDS + 1))


@contextmanager
def _extreme(number: float) -> Iterator[None]:
    """Context manager in which draws from the unit interval, or from another one, are at one of its ends."""

    def uniform(low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        value = low + (high - low) * number
        return value if size is None else np.full(size, value)

    def unit(*shape: Any) -> Any:
        return np.full(shape, number) if shape else number

    with (
        patch.object(random, "random", lambda: number),
        patch.object(random, "uniform", uniform),
        patch.object(np.random, "rand", unit),
        patch.object(np.random, "random", partial(uniform, 0.0, 1.0)),
        patch.object(np.random, "uniform", uniform),
        _seeded(0),
    ):
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with generators_kept():
        seed_generators(seed)
        yield
