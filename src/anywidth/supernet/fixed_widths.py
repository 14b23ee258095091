"""Fixed widths of a supernet: switches, or the shells of a nested network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from anywidth.core.errors import CheckpointError, WidthError
from anywidth.supernet.shells import Shells
from anywidth.supernet.tracked_state import TrackedState

__all__ = ["FixedWidths"]


class FixedWidths:
    """The part of `Supernet` about networks that have a few widths only."""

    model: nn.Module
    _tracked: TrackedState

    @property
    def widths(self) -> tuple[float, ...]:
        """The only widths of a network with switches or shells, in ascending order; empty for one of any width."""
        return self.switches or self.nested

    @property
    def nested(self) -> tuple[float, ...]:
        """The widths of a nested network in ascending order; empty for any other."""
        shells = self._tracked.state.shells
        return () if shells is None else tuple(shells.widths.values())

    @property
    def shells(self) -> Shells:
        """The shells of a nested network.

        Raises:
            WidthError: the network is not nested.
        """
        shells = self._tracked.state.shells
        if shells is None:
            raise WidthError("this network is not nested; build it with Supernet(..., nested=(0.25, 0.5, 0.75, 1.0))")
        self._tracked.follow()
        return shells

    def zero_later_shells(self) -> None:
        """Set the weights that read later shells to zero, after weights were loaded that are not nested."""
        self.shells.zero_()

    @property
    def switches(self) -> tuple[float, ...]:
        """The only widths of a network with switches, in ascending order; empty for a network of any width."""
        switches = self._tracked.state.switches
        return () if switches is None else tuple(switches.widths.values())

    @property
    def switch_affine(self) -> bool:
        """Whether switches have weights and biases of batch norms of their own."""
        switches = self._tracked.state.switches
        return switches is not None and switches.affine

    def add_switch(self, width: float) -> None:
        """One more switch; its batch norms start as those of the next wider one, from which training goes on.

        Its parameters are new: make the optimizer again from `parameters()`, or add them to it.

        Raises:
            WidthError: the network has no switches, or this one already.
        """
        self._tracked.current.add_switch(width)

    def switch_state(self) -> dict[str, Tensor]:
        """What switches have of their own, by `WIDTH/NAME`; the rest is in `net.model.state_dict()`."""
        switches = self._tracked.state.switches
        return {} if switches is None else switches.state()

    def load_switch_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what `switch_state` of a network with the same switches gave.

        Raises:
            CheckpointError: it is of other switches.
        """
        switches = self._tracked.state.switches
        if switches is None:
            raise CheckpointError("this network has no switches")
        switches.load_state(state)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is to be trained: the parameters of the model, and those that switches have of their own."""
        yield from self.model.parameters()
        yield from self.switch_parameters()

    def switch_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that switches have of their own, which are not the model's."""
        switches = self._tracked.state.switches
        return iter(()) if switches is None else switches.parameters()
