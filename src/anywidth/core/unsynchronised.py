"""Warning about gradients that several processes train with but do not synchronize."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from anywidth.core.optimizers import parameters_of

__all__ = ["note_gradients", "note_synchronised"]

_MESSAGE = (
    "{count} processes train, but the gradients of sandwich_step were not synchronized: every process trains a "
    "separate network. Call anywidth.training.sync_gradients(net.parameters()) before optimizer.step(), and "
    "anywidth.training.same_start(net.model) once before training"
)


@dataclass
class _Note:
    """State of the gradients after a step, represented by one parameter."""

    witness: ref[nn.Parameter]
    weight: int
    gradient: tuple[int, int]
    collectives: int | None


_notes: WeakKeyDictionary[nn.Module, _Note] = WeakKeyDictionary()
_warned = False


def note_gradients(model: nn.Module) -> None:
    """Record that a step added gradients to the parameters of a model, in one of several processes.

    An optimizer step before the gradients are synchronized triggers one warning. So does the next call of this
    function, if the weights changed without an optimizer from torch.
    """
    _listen()
    before = _notes.pop(model, None)
    if before is not None and (parameter := before.witness()) is not None and parameter._version != before.weight:
        _warn()
    witness = next((p for p in model.parameters() if p.grad is not None), None)
    if witness is not None:
        _notes[model] = _Note(ref(witness), witness._version, _state(witness), _collectives())


def note_synchronised(parameters: Iterable[nn.Parameter]) -> None:
    """Forget recorded steps that added gradients to these parameters."""
    if not _notes:
        return
    known = set(map(id, parameters))
    for model, note in list(_notes.items()):
        if id(note.witness()) in known:
            del _notes[model]


@cache
def _listen() -> None:
    register_optimizer_step_pre_hook(_before_step)


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    if not _notes:
        return
    known = set(map(id, parameters_of(optimizer)))
    for model, note in list(_notes.items()):
        witness = note.witness()
        if witness is None or id(witness) not in known:
            continue
        del _notes[model]
        # Other ways to average gradients also run a collective operation and write to the gradients.
        alone = note.collectives is not None and note.collectives == _collectives()
        if alone or note.gradient == _state(witness):
            _warn()


def _warn() -> None:
    global _warned
    if not _warned and dist.is_initialized():
        _warned = True
        warnings.warn(_MESSAGE.format(count=dist.get_world_size()), stacklevel=3)


def _state(parameter: nn.Parameter) -> tuple[int, int]:
    return id(parameter.grad), -1 if parameter.grad is None else parameter.grad._version


def _collectives() -> int | None:
    """Number of collective operations that the process groups have run; None if unknown."""
    try:
        groups = list(dist.distributed_c10d._world.pg_map)
        return sum(group._get_sequence_number_for_group() for group in groups)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None
