"""Other branches of a forward: by random numbers, by autocast, and by the gradient mode."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from anywidth.core.errors import AnalysisError
from anywidth.core.generators import generators_kept
from anywidth.core.inputs import Inputs, double_batch
from anywidth.core.modules import model_device
from anywidth.groups.branches import names_in_code
from anywidth.groups.capture import Capture, capture
from anywidth.groups.probe import calls_of
from anywidth.groups.random_numbers import OneByOne, extreme_numbers, seeded_numbers

__all__ = ["other_captures"]

_DRAWING = frozenset(
    {
        "random", "rand", "uniform", "randint", "randrange", "choice", "choices", "binomial", "normal", "shuffle",
        "randn", "rand_like", "randn_like", "randint_like", "bernoulli", "bernoulli_", "uniform_", "normal_", "random_",
        "exponential_", "multinomial",
    }
)  # fmt: skip
"""Names in code that may draw random numbers."""

_GRADIENTS = frozenset({"is_grad_enabled", "is_inference_mode_enabled", "is_inference"})
"""Names in code that ask for the gradient mode."""

_SEEDS = 8
_MOST = 6
"""Maximum number of branches to capture in addition."""

Enter = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class _Circumstances:
    """Circumstances of one kind, in which a forward may take another branch.

    Attributes:
        what: Text for errors.
        each: Make context managers, each of which enters one.
    """

    what: str
    each: tuple[Enter, ...]


_RANDOM = _Circumstances(
    what="for other random numbers",
    each=(
        partial(extreme_numbers, highest=False),
        partial(extreme_numbers, highest=True),
        *(partial(seeded_numbers, seed) for seed in range(1, _SEEDS + 1)),
    ),
)
_MODES = _Circumstances(
    what="with or without gradients (torch.is_grad_enabled, torch.is_inference_mode_enabled)",
    each=(torch.enable_grad, torch.no_grad, torch.inference_mode),
)


def other_captures(model: nn.Module, inputs: Inputs, captures: Sequence[Capture]) -> list[Capture]:
    """The graphs of a forward in the circumstances in which it calls other functions.

    A graph takes one branch. A forward that drops layers with `random.random()`, or that asks for
    `torch.is_autocast_enabled()`, takes others later, and their channels have to hang together in the same way.

    Args:
        model: The model.
        inputs: Example inputs.
        captures: The graphs of the usual branch.

    Raises:
        AnalysisError: a branch cannot be captured.
    """
    names = names_in_code(model)
    found: list[Capture] = []
    for training in (False, True):
        if training and not any(capture.training for capture in captures):
            inputs = double_batch(inputs)  # batch norms cannot train on one sample
        kinds = list(_kinds(model, inputs, names, training=training))
        branches: list[tuple[list[tuple[Any, ...]], Enter]] = []
        for enters in product(*(kind.each for kind in kinds)) if kinds else ():
            circumstance = partial(_all, enters)
            calls = calls_of(model, inputs, training=training, around=circumstance)
            if calls is not None and all(calls != known for known, _ in branches):
                branches.append((calls, circumstance))
        # Nobody knows which of several branches was captured.
        for _, circumstance in branches[: _MOST - len(found)] if len(branches) > 1 else ():
            try:
                with circumstance():
                    found.append(capture(model, inputs, training=training))
            except AnalysisError as error:
                raise AnalysisError(
                    f"the forward of {type(model).__name__} takes another branch "
                    f"{' or '.join(kind.what for kind in kinds)}, which cannot be captured: {error}"
                ) from error
    return found


def _kinds(model: nn.Module, inputs: Inputs, names: frozenset[str], *, training: bool) -> Iterator[_Circumstances]:
    """The kinds of circumstances that the code of a forward may ask for."""
    if names & _DRAWING and _draws(model, inputs, training=training):
        yield _RANDOM
    if any("autocast" in name and name.startswith(("is_", "get_")) for name in names):
        devices = tuple(dict.fromkeys((model_device(model).type, "cuda")))  # torch asks for CUDA without an argument
        enters = (partial(_autocast, devices, dtype) for dtype in (None, torch.bfloat16, torch.float16))
        yield _Circumstances(what="with or without autocast (torch.is_autocast_enabled)", each=tuple(enters))
    if names & _GRADIENTS:
        yield _MODES


def _draws(model: nn.Module, inputs: Inputs, *, training: bool) -> bool:
    """Whether a forward draws random numbers of Python or NumPy, or single ones of torch."""
    with generators_kept():
        before = random.getstate(), np.random.get_state()
        numbers = OneByOne(random.Random(0).random)
        calls_of(model, inputs, training=training, around=lambda: numbers)
        after = random.getstate(), np.random.get_state()
    same = all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    return before[0] != after[0] or not same or numbers.drawn > 0


@contextmanager
def _all(enters: Sequence[Enter]) -> Iterator[None]:
    with ExitStack() as stack:
        for enter in enters:
            stack.enter_context(enter())
        yield


@contextmanager
def _autocast(devices: Sequence[str], dtype: torch.dtype | None) -> Iterator[None]:
    """Context manager in which autocast is on for these devices with a type, or off, whether or not they exist."""
    before = [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices]
    with torch.autocast(devices[0], enabled=False):  # empties the cache of casts at its end
        try:
            for device in devices:
                torch.set_autocast_enabled(device, dtype is not None)
                torch.set_autocast_dtype(device, dtype or torch.get_autocast_dtype(device))
            yield
        finally:
            for device, enabled, usual in before:
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, usual)
