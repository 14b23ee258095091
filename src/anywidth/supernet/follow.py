"""Detects changes that the user has made to a model since its subnets were built."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from anywidth.core.inputs import Inputs
from anywidth.groups.code_globals import CodeGlobals
from anywidth.groups.environment import Environment, variables_of
from anywidth.supernet.calls import trace_calls, written_by_forward
from anywidth.supernet.fingerprint import Fingerprint
from anywidth.supernet.hook_effects import HookEffects
from anywidth.supernet.proved_numbers import ProvedNumbers, place_of

__all__ = ["Follower", "Sight"]

_HARMLESS = frozenset(
    {"gradient_checkpointing", "grad_checkpointing", "use_checkpoint", "with_cp", "_gradient_checkpointing_func"}
)
"""Attributes that save memory without changing the results of a forward."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The changes in a model.

    Attributes:
        structure: Text of a change that the analysis depends on, or None.
        number: Text of a changed number that the proof does not cover, or None.
        hook: Text of a hook that the proof does not cover, or None.
        computes: Whether evaluation may return different numbers.
        anything: Whether anything has changed.
    """

    structure: str | None = None
    number: str | None = None
    hook: str | None = None
    computes: bool = False
    anything: bool = False


class Follower:
    """The state of a model when its subnets were built, and the consequences of later changes.

    Args:
        model: The model.
        inputs: Example inputs to trace its forward.
        moving: Names of buffers that a forward writes.
        changing: Names of attributes whose numbers every forward changes.

    Attributes:
        written: The attributes that a forward writes, by module path.
        hooks: The hooks of the model that change numbers.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, moving: Collection[str] = (), changing: Sequence[str] = ()
    ) -> None:
        self.model = model
        self._inputs = inputs
        self.written, self._calls = written_by_forward(model, inputs)
        self._moving, self._changing = frozenset(moving), tuple(changing)
        environment = Environment()
        self._settings = [
            *CodeGlobals(model).settings, *((environment, name) for name in variables_of(model, inputs))
        ]  # fmt: skip
        self._seen = self._fingerprint()
        self._looked_at = self._seen
        self._numbers = self._proved()
        self.hooks = HookEffects(model)

    @property
    def modes(self) -> tuple[bool, ...]:
        """The train/eval flags of all modules at the last check."""
        return self._seen.modes

    def is_current(self) -> bool:
        """Whether nothing has changed, apart from train/eval flags."""
        return self._seen.is_current() and self._numbers.is_current() and self.hooks.settled

    def accept(self) -> None:
        """Accept the state of the last check as known and proved."""
        self._seen = self._looked_at
        self._numbers = self._proved()
        self.hooks.accept()

    def look(self) -> Sight:
        """The changes since the last accepted state.

        The new state is accepted, unless it may change the analysis.
        """
        now = self._fingerprint()
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
            structure = f"{place_of(path, name)} has a different value"
        number = self._numbers.changed(now) if structure is None else None
        hook = self.hooks.unproved()
        self._looked_at = now
        if structure is None and number is None and hook is None:
            self._seen = now
            self._numbers.settle()
        found = any(text is not None for text in (structure, number, hook))
        return Sight(
            structure=structure,
            number=number,
            hook=hook,
            computes=bool(others) or number is not None,
            anything=found or bool(change.attributes) or change.tensors,
        )

    def _proved(self) -> ProvedNumbers:
        # Not a method of this object, because a cycle would keep the weights until the next garbage collection.
        matters = partial(_matters, self.model, self._inputs)
        return ProvedNumbers(self._seen, self._moving, self._changing, matters)

    def _fingerprint(self) -> Fingerprint:
        return Fingerprint(self.model, self.written, self._moving, self._settings)

    def _rests_in_evaluation(self, path: str, name: str) -> bool:
        """Whether an attribute affects only random drops or memory."""
        kind = type(self.model.get_submodule(path))
        drops = issubclass(kind, nn.modules.dropout._DropoutNd) or kind.__name__ in ("DropPath", "StochasticDepth")
        return name in _HARMLESS or (drops and name in ("p", "drop_prob"))


def _matters(model: nn.Module, inputs: Inputs, path: str, name: str, number: float) -> bool:
    """Whether a forward computes something else if an attribute has another number."""
    now = trace_calls(model, inputs, floats=True)
    return now is None or now != trace_calls(model, inputs, {path: {name: number}}, floats=True)
