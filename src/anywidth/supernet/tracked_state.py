"""Keeps what is known of the model of a supernet in step with the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anywidth.core.errors import AnywidthError, ModelChangedError
from anywidth.core.modules import model_device
from anywidth.groups import analyse
from anywidth.groups.untouched import untouched
from anywidth.groups.wrappers import check_unsharded
from anywidth.supernet.follow import Follower
from anywidth.supernet.state import SupernetState
from anywidth.supernet.subnet_table import SubnetTable
from anywidth.supernet.watch import watch
from anywidth.widths import WidthConfig

__all__ = ["TrackedState"]


class TrackedState:
    """The state of a supernet, which follows the changes of its model.

    Args:
        state: The state of the model now.
        subnets: The subnets, which are dropped after a change.

    Attributes:
        state: The state at the last look at the model.
        generation: How often the model has changed.
        autocast_layers: Names of the layers that a forward calls once, under autocast; None before that was recorded.
    """

    def __init__(self, state: SupernetState, subnets: SubnetTable) -> None:
        self.state = state
        self.generation = 0
        self.autocast_layers: frozenset[str] | None = None
        self._subnets = subnets
        self._settled = threading.local()
        self._follower = _follower_of(state)
        watch(state.model)

    @property
    def current(self) -> SupernetState:
        """The state of the model as it is now."""
        self.follow()
        return self.state

    @property
    def modes(self) -> tuple[bool, ...]:
        """The train/eval flags of the model at the last look."""
        return self._follower.modes

    @property
    def written(self) -> Mapping[str, Collection[str]]:
        """The attributes that forwards were seen to write, by module path."""
        return self._follower.written

    @property
    def is_settled(self) -> bool:
        """Whether this thread does not look for changes at the moment."""
        return getattr(self._settled, "depth", 0) > 0

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Context manager that looks for changes once, at its start."""
        self.follow()
        self._settled.depth = getattr(self._settled, "depth", 0) + 1
        try:
            yield
        finally:
            self._settled.depth -= 1

    def follow(self) -> None:
        """Look for changes of the model; see `Supernet.follow`."""
        if self.is_settled or self._follower.is_current():
            return
        with self._subnets.lock, torch.inference_mode(False):
            if self._follower.is_current():
                return
            model = self.state.model
            check_unsharded(model)
            seen = self._follower.look()
            if not seen.anything:  # but hooks of all modules may be others
                self.state.statistics.fit_hooks(self._follower.hooks.changing)
                return
            if seen.structure is not None:
                self._analyse_again(seen.structure)
            elif seen.number is not None:
                self._analyse_again(seen.number, keep_if_same=True)
            elif seen.hook is not None:  # whether it keeps shells apart is not proved again
                self._analyse_again(seen.hook, keep_if_same=self.state.shells is None, outdate=seen.computes)
            else:
                self.state.statistics.forget_weights()
                if self.state.shells is not None:
                    self.state.shells.attach(model)
                if seen.computes:
                    self.state.statistics.outdate()
            self.state.statistics.fit_hooks(self._follower.hooks.changing)
            self._subnets.clear()
            self.generation += 1
            self.autocast_layers = None
            watch(model)

    def watch_hooks(self, network: nn.Module, config: WidthConfig, *, norms: Callable[[], Sequence[nn.Module]]) -> None:
        """Watch hooks of a copy of the model that change numbers, which proofs and statistics may not cover.

        Args:
            network: The copy.
            config: Its width.
            norms: Returns its batch norms.
        """
        hooks = self._follower.hooks

        def found() -> None:
            state = self.state
            state.statistics.fit_hooks(hooks.changing)
            unproved = hooks.unproved()
            if unproved is not None and state.shells is not None:
                self._analyse_again(unproved)
            given = norms()
            if given and not any(norm.training for norm in given):
                state.statistics.check(config)

        hooks.watch(network, found)

    def _analyse_again(self, what: str, *, keep_if_same: bool = False, outdate: bool = True) -> None:
        old = self.state
        model, settings = old.model, old.settings
        changed = f"the model has been changed since Supernet(model, ...): {what}"
        kept = settings.kept
        fixed = None if kept is None else f"{changed}. With {kept}=, build a new Supernet of the changed model"
        if fixed is not None and not keep_if_same:
            raise ModelChangedError(fixed)
        like = next((p for p in model.parameters() if p.is_floating_point()), None)
        device = model_device(model)

        def move(tensor: Tensor) -> Tensor:
            other = like is not None and tensor.is_floating_point() and tensor.dtype != like.dtype
            return tensor.to(device=device, dtype=like.dtype if other and like is not None else tensor.dtype)

        try:
            inputs = old.inputs.map(move)
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                analysis = analyse(model, inputs, samples=settings.samples)
                same = keep_if_same and settings.applied_to(analysis).narrows_like(old.analysis)
                if not same and fixed is None:
                    state = SupernetState(model, inputs, analysis, settings)
                    self.state, self._follower = state, _follower_of(state)
        except AnywidthError as error:
            raise ModelChangedError(f"{changed}. A new Supernet is needed, because {error}") from error
        if same:
            self._follower.accept()
            old.statistics.forget_weights()
            if outdate:
                old.statistics.outdate()
        elif fixed is not None:
            raise ModelChangedError(fixed)


def _follower_of(state: SupernetState) -> Follower:
    # Other values in buffers that forwards write are not changes by the user.
    moving = frozenset((*state.effects.written, *(name for pair in state.effects.norms for name in pair)))
    with untouched(state.model):
        return Follower(state.model, state.inputs, moving, state.effects.numbers)
