"""Turn off functions that drop values at random."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["QuietDropout"]

_IDENTITY = {
    F.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout, torch.dropout,
    torch.dropout_, torch.alpha_dropout, torch.alpha_dropout_, torch.feature_dropout, torch.feature_dropout_,
    torch.feature_alpha_dropout, torch.feature_alpha_dropout_,
}  # fmt: skip
"""Functions that return their first argument instead."""

_PROBABILITY = {
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: ("dropout_p", 10),
    torch.lstm: ("dropout", None), torch.gru: ("dropout", None),
    torch.rnn_tanh: ("dropout", None), torch.rnn_relu: ("dropout", None),
}  # fmt: skip
"""Functions with a probability at this position; for recurrent layers it is their only float."""

_SAMPLES = ("drop_path", "droppath", "stochastic_depth", "drop_block", "dropblock")
_CALLERS = 4


class QuietDropout(TorchFunctionMode):
    """Context manager in which dropout functions return their input, regardless of `training`.

    This covers `F.dropout` and its variants, the dropout of `F.scaled_dot_product_attention`,
    `F.multi_head_attention_forward` and recurrent layers, and functions named `drop_path`, `stochastic_depth` or
    `drop_block`, which draw their own random numbers.

    >>> with QuietDropout():
    ...     F.dropout(torch.ones(3), p=0.9, training=True)
    tensor([1., 1., 1.])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _IDENTITY:
            return args[0] if args else kwargs["input"]
        if func in _PROBABILITY:
            args, kwargs = _without_probability(func, args, kwargs)
        elif func is torch.native_dropout:
            x = args[0] if args else kwargs["input"]
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        elif (draw := _DRAWS.get(getattr(func, "__name__", ""))) is not None and _drops_samples():
            return draw(func, args, kwargs)
        return func(*args, **kwargs)


def _without_probability(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    name, position = _PROBABILITY[func]
    if name in kwargs:
        return args, {**kwargs, name: 0.0}
    if position is None:
        position = next((number for number, value in enumerate(args) if isinstance(value, float)), len(args))
    if position < len(args):
        args = (*args[:position], 0.0, *args[position + 1 :])
    return args, kwargs


def _drops_samples() -> bool:
    """Whether the caller is a function that drops whole samples or blocks."""
    frame = sys._getframe(2)
    for _ in range(_CALLERS):
        if frame is None:
            return False
        if any(name in frame.f_code.co_name.lower() for name in _SAMPLES):
            return True
        frame = frame.f_back
    return False


# Such functions divide a mask by the probability to keep, so a mask of this constant keeps everything.
def _expected(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    value = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    if func is torch.bernoulli:
        return torch.full_like(args[0], value) if len(args) > 1 or "p" in kwargs else args[0].clone()
    return args[0].copy_(value) if isinstance(value, Tensor) else args[0].fill_(value)


def _zeros(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return func(*args, **kwargs).zero_()


def _unrounded(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0]


_DRAWS = {
    "bernoulli_": _expected, "bernoulli": _expected, "rand": _zeros, "rand_like": _zeros, "floor_": _unrounded,
    "floor": _unrounded,
}  # fmt: skip
"""Ways to make masks: draw 0 and 1, or round down a probability plus a number in [0, 1)."""
