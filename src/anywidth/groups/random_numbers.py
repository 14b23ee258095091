"""Other random numbers for a forward: of Python and NumPy, and those that torch draws one at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import NormalDist
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anywidth.core.generators import generators_kept, seed_generators

__all__ = ["OneByOne", "extreme_numbers", "seeded_numbers"]

_HIGHEST = 1.0 - 2**-53
"""The highest number below 1."""


class OneByOne(TorchFunctionMode):
    """Replaces the random numbers that torch draws one at a time, which a forward may branch on.

    Known numbers are constants during a capture, so `.item()` can read them. Larger tensors of random numbers are data
    like any other.

    Args:
        unit: Returns the next number in [0, 1), from which numbers of all distributions are made.

    Attributes:
        drawn: How many numbers were replaced.

    >>> with OneByOne(lambda: 0.75) as numbers:
    ...     torch.rand(1).item(), torch.randint(8, (1,)).item(), numbers.drawn
    (0.75, 6, 2)
    """

    def __init__(self, unit: Callable[[], float]) -> None:
        super().__init__()
        self._unit = unit
        self.drawn = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        value_of = _DISTRIBUTIONS.get(getattr(func, "__name__", "").removesuffix("_"))
        if value_of is None or not isinstance(result, Tensor) or result.numel() != 1:
            return result
        self.drawn += 1
        value = value_of(self._unit(), args, kwargs or {})
        return torch.tensor(value, dtype=result.dtype, device=result.device).reshape(result.shape)


@contextmanager
def extreme_numbers(*, highest: bool) -> Iterator[None]:
    """Context manager in which draws from an interval are at its lower or upper end."""
    number = _HIGHEST if highest else 0.0

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
        OneByOne(lambda: number),
    ):
        yield


@contextmanager
def seeded_numbers(seed: int) -> Iterator[None]:
    """Context manager in which all generators start from a seed, and are as before at its end."""
    with _seeded(seed), OneByOne(random.Random(seed).random):
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with generators_kept():
        seed_generators(seed)
        yield


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], *names: str) -> list[float]:
    """The numbers among arguments, in order: positional ones first."""
    values = [*args, *(kwargs[name] for name in names if name in kwargs)]
    return [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _uniform(unit: float, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    low, high = [*_given(args, kwargs, "from", "to"), 0.0, 1.0][:2]
    return low + (high - low) * unit


def _normal(unit: float, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    mean, deviation = [*_given(args, kwargs, "mean", "std"), 0.0, 1.0][:2]
    return mean + deviation * _standard_normal(unit)


def _standard_normal(unit: float, *_: Any) -> float:
    return NormalDist().inv_cdf(min(max(unit, 1e-9), 1 - 1e-9))


def _integer(unit: float, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    bounds = _given(args, kwargs, "from", "low", "to", "high")[:2]
    low, high = bounds if len(bounds) == 2 else (0, *(bounds or [2]))
    return int(low + math.floor((high - low) * unit))


_DISTRIBUTIONS: Mapping[str, Callable[[float, Sequence[Any], Mapping[str, Any]], float]] = {
    "rand": lambda unit, *_: unit,
    "rand_like": lambda unit, *_: unit,
    "uniform": _uniform,
    "randn": _standard_normal,
    "randn_like": _standard_normal,
    "normal": _normal,
    "randint": _integer,
    "randint_like": _integer,
    "random": _integer,
    "bernoulli": lambda unit, *_: float(unit < 0.5),
    "exponential": lambda unit, *_: -math.log1p(-unit),
    "multinomial": lambda unit, args, _: math.floor(args[0].shape[-1] * unit),
}
"""By name of torch's function, without the underscore of methods in place: the value for a number in [0, 1)."""
