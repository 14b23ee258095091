"""One record per subnet, with everything that belongs to it beside its modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import nn

from anywidth.groups.effects import is_dropout
from anywidth.supernet.hook import SubnetHook

if TYPE_CHECKING:
    from anywidth.supernet.dense_copies import DenseCopies
    from anywidth.supernet.gradient_router import GradientRouter
    from anywidth.supernet.shared_memory import SharedWeights
    from anywidth.supernet.snapshot import Snapshot
    from anywidth.widths import WidthConfig

__all__ = ["SubnetRecord", "follow_mode", "record_of"]

_records: WeakKeyDictionary[nn.Module, ReferenceType[SubnetRecord]] = WeakKeyDictionary()


class SubnetRecord:
    """Everything that belongs to one subnet beside its modules.

    The subnet owns its record by a hook, and the record refers to the subnet weakly. A table that owned records would
    keep alive whatever they refer to, such as the supernet, and with it the subnet.

    Args:
        subnet: The subnet.
        config: Its width config.
        router: Moves gradients to the supernet's.
        shared: Checks that weights lie in the memory of the supernet's.
        copies: The dense copies; None if all tensors are slices.

    Attributes:
        config: As above.
        router: As above.
        shared: As above.
        copies: As above.
        modes: Train/eval flags of the supernet when the subnet was last returned.
        snapshot: The subnet when it was first returned to the user; None before.
        castable: The parameters that can be cast together, with the layers that they were found for.
        nodes: Autograd's nodes that add to gradients, if several threads run backward passes. They keep leaves alive,
            so leaves must not refer to this record.
        repeats: Whether the current pass repeats one that has advanced the counters of the network.
    """

    def __init__(
        self,
        subnet: nn.Module,
        config: WidthConfig,
        *,
        router: GradientRouter,
        shared: SharedWeights,
        copies: DenseCopies | None,
    ) -> None:
        self._subnet = ref(subnet)
        self.config = config
        self.router, self.shared, self.copies = router, shared, copies
        self.modes: tuple[bool, ...] = ()
        self.snapshot: Snapshot | None = None
        self.castable: tuple[frozenset[str], list[nn.Parameter]] | None = None
        self.nodes: list[Any] | None = None
        self.repeats = False
        self._norms: list[ReferenceType[nn.Module]] = []
        self._pairs: list[tuple[nn.Module, nn.Module, bool]] | None = None
        subnet.register_forward_pre_hook(SubnetHook(self._before_forward))
        _records[subnet] = ref(self)

    @property
    def subnet(self) -> nn.Module | None:
        """The subnet; None after it was freed."""
        return self._subnet()

    @property
    def is_as_built(self) -> bool:
        """Whether the user has left the subnet unchanged; only one that was returned can have been changed."""
        return self.snapshot is None or (self.snapshot.is_current() and self.shared.are_shared)

    @property
    def norms(self) -> list[nn.Module]:
        """The batch norms, in the order of those of the full network."""
        return [norm for weak in self._norms if (norm := weak()) is not None]

    def set_norms(self, norms: Iterable[nn.Module]) -> None:
        """Record the batch norms; a model with handmade ones may be one itself."""
        self._norms = [ref(norm) for norm in norms]

    def pairs(self, model: nn.Module, subnet: nn.Module) -> list[tuple[nn.Module, nn.Module, bool]]:
        """The modules below a subnet with those of its supernet, and whether they apply dropout.

        For a small network, walking through modules takes longer than the rest of a step.
        """
        if self._pairs is None:
            self._pairs = _pairs(model, subnet)
        return self._pairs

    def _before_forward(self, subnet: nn.Module) -> None:
        if not torch.compiler.is_compiling():
            self.shared.check(subnet)
            self.router.before_forward(self)


def record_of(module: nn.Module) -> SubnetRecord | None:
    """The record of a subnet; None for any other module."""
    found = _records.get(module)
    return None if found is None else found()


def follow_mode(model: nn.Module, subnet: nn.Module, *, dropout: bool = True) -> None:
    """Copy the train/eval flags of the supernet to a subnet; without `dropout`, its dropout layers are off."""
    record = record_of(subnet)
    below = _pairs(model, subnet) if record is None else record.pairs(model, subnet)
    for ours, theirs, drops in ((model, subnet, is_dropout(subnet)), *below):
        training = ours.training and (dropout or not drops)
        if theirs.training != training:
            theirs.training = training


def _pairs(model: nn.Module, subnet: nn.Module) -> list[tuple[nn.Module, nn.Module, bool]]:
    both = list(zip(model.modules(), subnet.modules(), strict=True))[1:]
    return [(ours, theirs, is_dropout(theirs)) for ours, theirs in both]
