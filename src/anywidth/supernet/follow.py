"""Notices what the user has changed in a model since its subnets were built."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from anywidth.core.inputs import Inputs
from anywidth.supernet.calls import trace_calls, written_by_forward
from anywidth.supernet.fingerprint import Fingerprint
from anywidth.supernet.proved_numbers import ProvedNumbers

__all__ = ["Follower", "Sight"]

_HARMLESS = frozenset(
    {"gradient_checkpointing", "grad_checkpointing", "use_checkpoint", "with_cp", "_gradient_checkpointing_func"}
)
"""Attributes by which a forward saves memory and computes the same."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What has changed in a model.

    Attributes:
        structure: What the analysis depends on, in words; None if none of it changed.
        number: A number that the proof has not seen, in words, or None.
        computes: Whether evaluation may give other numbers.
        anything: Whether anything has changed at all.
    """

    structure: str | None = None
    number: str | None = None
    computes: bool = False
    anything: bool = False


class Follower:
    """What a model was when its subnets were built, and what that means for them if it is something else now.

    Args:
        model: The model.
        inputs: Example inputs, with which its forward is looked at.
        moving: Names of buffers that a forward writes.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, moving: Collection[str] = ()) -> None:
        self.model = model
        self._inputs = inputs
        self._written, self._calls = written_by_forward(model, inputs)
        self._moving = frozenset(moving)
        self._seen = Fingerprint(model, self._written, self._moving)
        self._looked_at = self._seen
        self._numbers = ProvedNumbers(self._seen, self._moving)

    @property
    def modes(self) -> tuple[bool, ...]:
        """The train/eval flags of all modules when the model was last looked at."""
        return self._seen.modes

    def is_current(self) -> bool:
        """Whether nothing has changed, train/eval flags aside."""
        return self._seen.is_current() and self._numbers.is_current()

    def accept(self) -> None:
        """Take what was looked at last as known and proved."""
        self._seen = self._looked_at
        self._numbers = ProvedNumbers(self._seen, self._moving)

    def look(self) -> Sight:
        """What has changed.

        What is seen now counts as known from then on, unless it may change the analysis.
        """
        now = Fingerprint(self.model, self._written, self._moving)
        change = now.change_from(self._seen)
        attributes = [(path, name) for path, name in change.attributes if not self._rests_in_evaluation(path, name)]
        hooks = [(path, name) for path, name in attributes if name.endswith("_hooks") or "_hooks_" in name]
        others = [place for place in attributes if place not in hooks]
        structure = change.structure
        if (
            structure is None
            and others
            and (self._calls is None or trace_calls(self.model, self._inputs) != self._calls)
        ):
            path, name = others[0]
            structure = f"{name} of {repr(path) if path else 'the model itself'} has another value"
        number = self._numbers.changed(now) if structure is None else None
        self._looked_at = now
        if structure is None and number is None:
            self._seen = now
            self._numbers.settle()
        anything = structure is not None or number is not None or bool(change.attributes) or change.tensors
        return Sight(structure=structure, number=number, computes=bool(others) or number is not None, anything=anything)

    def _rests_in_evaluation(self, path: str, name: str) -> bool:
        """Whether an attribute changes nothing but random drops or memory."""
        kind = type(self.model.get_submodule(path))
        drops = issubclass(kind, nn.modules.dropout._DropoutNd) or kind.__name__ in ("DropPath", "StochasticDepth")
        return name in _HARMLESS or (drops and name in ("p", "drop_prob"))
