"""One step of progressive inference: the network of the channels that a width adds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.core.tensors import tensors_in
from anywidth.groups.analysis import Axis, KeptIndices
from anywidth.groups.narrow import narrow
from anywidth.groups.nesting import Leaf
from anywidth.supernet.dense_copies import layout_of

if TYPE_CHECKING:
    from anywidth.supernet.supernet import Supernet

__all__ = ["CHANNEL_DIMS", "Cache", "Step"]

CHANNEL_DIMS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 1, nn.Conv3d: 1, nn.Linear: -1}
"""The layers that may read channels, and the dimension of their input that holds them."""

Positions = npt.NDArray[np.int64]


class Cache:
    """What is kept of earlier steps: inputs of layers that read channels, and outputs that the tail reads."""

    def __init__(self) -> None:
        self.read: dict[tuple[str, int], Tensor] = {}
        self.outputs: dict[str, list[Any]] = {}

    def select(self, samples: Tensor) -> None:
        """Keep some samples, by their indices."""
        self.read = {key: tensor.index_select(0, samples) for key, tensor in self.read.items()}
        self.outputs = {
            path: pytree.tree_map_only(Tensor, lambda t: t.index_select(0, samples), calls)
            for path, calls in self.outputs.items()
        }


class Step:
    """The network of the channels that one width adds to the last one.

    No module receives an empty tensor: a group without new channels computes its last block again,
    which is then dropped.

    Args:
        net: The supernet.
        path: The shells at which answers were given, the last of which is this step's.
    """

    def __init__(self, net: Supernet, path: tuple[int, ...]) -> None:
        analysis, shells = net.analysis, net.shells
        bounds = [analysis.blocks(config) for config in shells.widths]
        self._ends = [np.zeros_like(bounds[0]), *(bounds[number] for number in path)]
        self._elastic = np.array([*(group.frozen is None for group in analysis.groups), False])
        self._body = shells.nesting.body
        low, high = self._ends[-2:]
        self._first_made = np.where(self._elastic, np.minimum(low, high - 1), 0)

        def bind(name: str, tensor: Tensor, _: Sequence[KeptIndices]) -> Tensor:
            name = analysis.names[name]
            product = shells.nesting.later.get(name)
            part = tensor.detach()
            for dim, axis in enumerate(analysis.axes.get(name, ())):
                if axis is not None:
                    reads = product is not None and dim == product.in_dim
                    part = _picked(part, dim, self._readable(axis) if reads else self._made(axis))
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part

        self._model = narrow(net.model, analysis, high - self._first_made, bind).eval()
        net.watch_hooks(self._model, list(shells.widths)[path[-1]])
        self._run: _Run | None = None
        for name, product in shells.nesting.later.items():
            axis = analysis.axes[name][product.in_dim]
            assert axis is not None
            self._extend_input(name.rpartition(".")[0], None if len(path) == 1 else self._fresh(axis))
        for module in self._body:
            self._keep_output(module)

    def run(self, inputs: Inputs, cache: Cache) -> None:
        """Compute the new channels, and add them to what is kept."""
        self._run = _Run(cache, sum(map(len, self._body.values())))
        try:
            inputs.call(self._model)
        except _BodyDone:
            pass
        finally:
            run, self._run = self._run, None
        cache.read, cache.outputs = run.read, dict(run.outputs)

    def _extend_input(self, path: str, fresh: Positions | None) -> None:
        """Give a layer the earlier channels besides the new ones."""
        module = self._model.get_submodule(path)
        dim = next(dim for kind, dim in CHANNEL_DIMS.items() if isinstance(module, kind))
        pick = _Pick(fresh, dim)

        def extend(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            assert self._run is not None
            key = path, self._run.count[path]
            self._run.count[path] += 1
            before = self._run.cache.read.get(key)
            if before is None:
                # In place operators after this layer must not change what is kept.
                self._run.read[key] = args[0].clone()
                return args
            if not pick.empty:
                before = torch.cat([before, pick(args[0])], dim)
            self._run.read[key] = before
            return before, *args[1:]

        module.register_forward_pre_hook(extend)

    def _keep_output(self, path: str) -> None:
        """Keep what a module of the body returns, together with its earlier channels."""
        calls = self._body[path]
        joins = [[self._join(leaf, path) if leaf.needed else None for leaf in leaves] for leaves in calls]

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            run = self._run
            assert run is not None
            number = len(run.outputs[path])
            before = run.cache.outputs.get(path)
            olds = iter(() if before is None else tensors_in(before[number]))
            plans = iter(zip(joins[number], calls[number], strict=True))

            def joined(tensor: Tensor) -> Tensor:
                join, leaf = next(plans)
                old = next(olds, None)
                if join is None:  # whoever receives it returns what is kept as well
                    return tensor
                if old is None:
                    return tensor.clone() if leaf.overwritten else tensor
                return join(old, tensor)

            whole = joined(output) if isinstance(output, Tensor) else pytree.tree_map_only(Tensor, joined, output)
            run.outputs[path].append(whole)
            run.left -= 1
            if not run.left:
                raise _BodyDone

        # Before hooks of the user, which are called again where recordings are replayed.
        self._model.get_submodule(path).register_forward_hook(keep, prepend=True)

    def _join(self, leaf: Leaf, path: str) -> _Join:
        axes = [(dim, axis) for dim, axis in enumerate(leaf.axes or ()) if axis is not None]
        elastic = [(dim, axis) for dim, axis in axes if self._elastic[axis.group].any()]
        if leaf.axes is None or len(elastic) > 1:
            raise AnalysisError(
                f"progressive inference is not possible: {path} returns channels along several dimensions, which code "
                "outside of the modules that all widths share reads. Move that code into a module"
            )
        if not elastic:
            return _Join(0, np.zeros(0, np.int64), np.zeros(0, np.int64))
        dim, axis = elastic[0]
        had = np.flatnonzero((axis.index < self._ends[-2][axis.group]) | ~self._elastic[axis.group])
        made, fresh = self._made(axis), self._fresh(axis)
        return _Join(dim, fresh, np.concatenate([had, made if fresh is None else made[fresh]]))

    def _made(self, axis: Axis) -> Positions:
        """The positions of a dimension that this step computes; those of no group are computed every time."""
        made = (axis.index >= self._first_made[axis.group]) & (axis.index < self._ends[-1][axis.group])
        return np.flatnonzero(made | ~self._elastic[axis.group])

    def _readable(self, axis: Axis) -> Positions:
        """The positions that this step reads, in the order in which they were computed."""
        elastic = self._elastic[axis.group]
        found = []
        for number, (low, high) in enumerate(pairwise(self._ends)):
            between = (axis.index >= low[axis.group]) & (axis.index < high[axis.group])
            found.append(np.flatnonzero((between & elastic) | (~elastic & (number == 0))))
        return np.concatenate(found)

    def _fresh(self, axis: Axis) -> Positions | None:
        """Which of the positions that this step computes are new; None if all are."""
        made = self._made(axis)
        group = axis.group[made]
        fresh = self._elastic[group] & (axis.index[made] >= self._ends[-2][group])
        return None if fresh.all() else np.flatnonzero(fresh)


class _BodyDone(BaseException):
    """Leaves a forward at the end of the body; no handler of a model is to catch it."""


class _Run:
    """One run of a step."""

    def __init__(self, cache: Cache, left: int) -> None:
        self.cache, self.left = cache, left
        self.read: dict[tuple[str, int], Tensor] = {}
        self.outputs: dict[str, list[Any]] = defaultdict(list)
        self.count: dict[str, int] = defaultdict(int)


class _Pick:
    """Takes positions of a dimension; None for all."""

    def __init__(self, positions: Positions | None, dim: int) -> None:
        self._dim = dim
        self.empty = positions is not None and not positions.size
        self._index = None if positions is None else torch.from_numpy(positions)

    def __call__(self, tensor: Tensor) -> Tensor:
        if self._index is None:
            return tensor
        self._index = self._index.to(tensor.device)
        return tensor.index_select(self._dim, self._index)


class _Join:
    """Puts the channels of earlier widths and the new ones in the order that they have in the full network.

    Args:
        dim: The dimension that holds channels.
        fresh: Which of the channels that a step computes are new; None if all are.
        positions: Where the earlier channels and the new ones are in the full network.
    """

    def __init__(self, dim: int, fresh: Positions | None, positions: Positions) -> None:
        self._dim, self._fresh = dim, _Pick(fresh, dim)
        rising = bool((np.diff(positions) > 0).all())
        self._ordered = _Pick(None if rising else np.argsort(positions), dim)

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        if self._fresh.empty:
            return old
        return self._ordered(torch.cat([old, self._fresh(new)], self._dim))


def _picked(tensor: Tensor, dim: int, positions: Positions) -> Tensor:
    """Positions of a dimension of a weight; a copy in its memory format, unless it is the whole weight."""
    if np.array_equal(positions, np.arange(tensor.shape[dim])):
        return tensor
    part = tensor.index_select(dim, torch.from_numpy(positions).to(tensor.device))
    return part.contiguous(memory_format=layout_of(tensor))
