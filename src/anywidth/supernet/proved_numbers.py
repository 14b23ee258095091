"""The numbers that a proof covers: with other numbers, other channels may matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anywidth.supernet.contents import zero_numbers
from anywidth.supernet.fingerprint import Fingerprint

__all__ = ["ProvedNumbers", "place_of"]

_TRAINING_ONLY = ("drop", "momentum", "checkpoint")
_RATIO = 2.0
_version = attrgetter("_version")


class ProvedNumbers:
    """Numbers of attributes, and buffers of zeros, as they were when the channel groups were proved.

    A proof does not cover a term whose factor is zero or much smaller than others. It does cover one whose factor
    changes by up to a factor of two, like a temperature with a schedule.

    Args:
        seen: The model at that time.
        moving: Names of buffers that a forward writes.
        changing: Names of attributes whose numbers every forward changes, such as a temperature.
        matters: Whether a forward computes something else if such an attribute (module path and name) has this number.
    """

    def __init__(
        self,
        seen: Fingerprint,
        moving: Collection[str] = (),
        changing: Sequence[str] = (),
        matters: Callable[[str, str, float], bool] = lambda *_: True,
    ) -> None:
        self._seen, self._matters = seen, matters
        self._changing = {name: _number(seen.model, name) for name in changing}
        self._zeros = [
            (module, name)
            for path, module in seen.model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
            and (f"{path}.{name}" if path else name) not in moving
            and not isinstance(module, _NormBase)
            and _is_zero(buffer)
        ]
        self.settle()

    def settle(self) -> None:
        """Compare with the present buffers from now on, after they were checked."""
        self._tensors = self._present()
        self._versions = list(map(_version, self._tensors))

    def is_current(self) -> bool:
        """Whether buffers of zeros are still zero, and changing numbers still like those of the proof."""
        return list(map(_version, self._tensors)) == self._versions and not any(
            _unlike(number, _number(self._seen.model, name)) for name, number in self._changing.items()
        )

    def changed(self, now: Fingerprint) -> str | None:
        """Text of the attribute or buffer whose number the proof does not cover, or None."""
        for path, name in now.changed_attributes(self._seen):
            before, after = self._seen.parts[path].attributes, now.parts[path].attributes
            training_only = any(word in name for word in _TRAINING_ONLY)
            if not training_only and name in before and name in after and _unlike(before[name], after[name]):
                return f"{place_of(path, name)} has a different value"
        for name, before in self._changing.items():
            number = _number(now.model, name)
            if _unlike(before, number):
                path, _, last = name.rpartition(".")
                if self._matters(path, last, before):
                    return f"{place_of(path, last)} has a different value"
                self._changing[name] = number  # only counted, not computed with
        paths = {id(module): path for path, module in now.model.named_modules()}
        for module, name in self._zeros:
            buffer = module._buffers.get(name)
            if buffer is not None and id(module) in paths and not _is_zero(buffer):
                return f"{place_of(paths[id(module)], name)} was zero and is not"
        return None

    def _present(self) -> list[Tensor]:
        tensors = [module._buffers.get(name) for module, name in self._zeros]
        return [tensor for tensor in tensors if tensor is not None and not tensor.is_inference()]


def _number(model: nn.Module, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path).__dict__.get(last)


def place_of(path: str, name: str) -> str:
    """Text for an attribute; names of global variables have a dot."""
    return name if "." in name else f"{name} of {path!r}" if path else f"{name} of the model itself"


def _is_zero(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and buffer.numel() > 0 and not bool(torch.any(buffer))


def _unlike(before: Any, after: Any) -> bool:
    """Whether two numbers differ so much that a proof with the first does not cover the second.

    >>> _unlike(0.0, 1e-3), _unlike(3.0, 2.9), _unlike((list, 0.1, 2), (list, 0.5, 2))
    (True, False, True)
    """
    if isinstance(before, (bool, int, float)) and isinstance(after, (bool, int, float)):
        if before == after or isinstance(before, bool) or isinstance(after, bool):
            return before != after
        if before in (0, 1, -1) or after in (0, 1, -1) or not math.isfinite(before) or not math.isfinite(after):
            return True
        return not 1 / _RATIO <= after / before <= _RATIO
    if isinstance(before, tuple) and isinstance(after, tuple):
        return len(before) == len(after) and any(map(_unlike, before, after))
    return zero_numbers(before) and not zero_numbers(after)
