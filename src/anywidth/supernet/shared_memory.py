"""Check that the parameters of a subnet still share memory with those of the supernet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from anywidth.core.errors import ModelChangedError

__all__ = ["SharedWeights"]


class _Known(NamedTuple):
    leaf: ReferenceType[nn.Parameter]
    parent: nn.Parameter
    leaf_at: int
    parent_at: int
    dtype: torch.dtype


class SharedWeights:
    """Memory addresses of the parameters of one subnet and of its supernet, taken when the subnet was built."""

    def __init__(self) -> None:
        self._known: list[_Known] = []
        self._elsewhere = 0

    def add(self, leaf: nn.Parameter, parent: nn.Parameter) -> None:
        """Add a parameter of the subnet with the supernet's parameter that it is a slice of."""
        self._known.append(_Known(ref(leaf), parent, leaf.data_ptr(), parent.data_ptr(), leaf.dtype))

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Context manager in which the subnet may use other memory, such as dense copies."""
        self._elsewhere += 1
        try:
            yield
        finally:
            self._elsewhere -= 1

    @property
    def are_shared(self) -> bool:
        """Whether all parameters are still at the same addresses."""
        return self._elsewhere > 0 or all(map(_is_shared, self._known))

    def check(self, subnet: nn.Module) -> None:
        """Raise unless the subnet shares its weights with the supernet.

        Raises:
            ModelChangedError: `half()`, `to()` or an assignment to `.data` moved the weights of one of them.
        """
        if torch.compiler.is_compiling() or self.are_shared:
            return
        moved = next(known for known in self._known if not _is_shared(known))
        whose = "the supernet's weights" if moved.parent.data_ptr() != moved.parent_at else "its weights"
        raise ModelChangedError(
            f"this subnet ({type(subnet).__name__}) no longer shares its weights with the supernet, because {whose} "
            "were moved or converted (half, to, a new .data). Take it again with net.subnet(width), and convert an "
            "independent copy instead: net.extract(width).half()"
        )


def _is_shared(known: _Known) -> bool:
    leaf = known.leaf()
    return leaf is None or (
        leaf.data_ptr() == known.leaf_at
        and leaf.dtype == known.dtype
        and Tensor.data_ptr(known.parent) == known.parent_at
    )
