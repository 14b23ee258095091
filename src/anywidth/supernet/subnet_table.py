"""The subnets of one supernet."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from weakref import WeakValueDictionary

from torch import nn

from anywidth.supernet.record import SubnetRecord, follow_mode, record_of
from anywidth.supernet.snapshot import Snapshot
from anywidth.widths import WidthConfig

__all__ = ["SubnetTable"]


class SubnetTable:
    """The subnets of one supernet, at most one per config.

    The last used ones are kept. Any other lives as long as somebody holds it, and is returned again until then.

    Args:
        size: How many are kept.

    Attributes:
        lock: Held while a subnet is looked up or built, and while all are dropped.
    """

    def __init__(self, size: int) -> None:
        self.lock = threading.RLock()
        self._size = size
        self._kept: OrderedDict[WidthConfig, nn.Module] = OrderedDict()
        self._records: WeakValueDictionary[WidthConfig, SubnetRecord] = WeakValueDictionary()

    @property
    def kept(self) -> tuple[WidthConfig, ...]:
        """The configs whose subnets are kept, the last used at the end."""
        return tuple(self._kept)

    @property
    def records(self) -> list[SubnetRecord]:
        """The records of all subnets that are alive."""
        return list(self._records.values())

    def get(
        self,
        config: WidthConfig,
        model: nn.Module,
        modes: tuple[bool, ...],
        build: Callable[[], nn.Module],
        *,
        written: Sequence[Mapping[str, Collection[str]]] | None = None,
    ) -> nn.Module:
        """The subnet of a config, which is built if there is none that the user has left unchanged.

        Args:
            config: The config.
            model: The full network.
            modes: Its train/eval flags, which the subnet gets if they have changed since it was last returned.
            build: Returns a new subnet.
            written: Tables of attributes that forwards write, by module path; None if only a training step uses the
                subnet, so that the user cannot change it.
        """
        record = self._records.get(config)
        subnet = None if record is None else record.subnet
        if record is None or subnet is None or not record.is_as_built:  # a changed one belongs to whoever changed it
            subnet = build()
            record = record_of(subnet)
            assert record is not None
            self._records[config] = record
        elif record.modes != modes:
            follow_mode(model, subnet)
        record.modes = modes
        if written is not None and record.snapshot is None:
            record.snapshot = Snapshot(subnet, *written)
        self._kept[config] = subnet
        self._kept.move_to_end(config)
        return subnet

    def drop_oldest(self) -> WidthConfig | None:
        """Drop the one that was not used for longest if there are too many; its config, unless somebody holds it."""
        if len(self._kept) <= self._size:
            return None
        config = self._kept.popitem(last=False)[0]
        return None if config in self._records else config

    def clear(self) -> None:
        """Drop all; those that somebody holds are not returned any more."""
        self._kept.clear()
        self._records.clear()
