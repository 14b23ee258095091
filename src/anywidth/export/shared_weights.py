"""Shared weights of an ONNX file with several widths, and how each width derives its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anywidth.export.onnx_model import content
from anywidth.export.program import DenseProgram
from anywidth.groups.analysis import KeptIndices
from anywidth.groups.narrow import take
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

if TYPE_CHECKING:
    import onnx

__all__ = ["SharedWeights"]


@dataclass(kw_only=True, eq=False)
class SharedWeights:
    """Initializers of a file with several widths.

    Attributes:
        widest: Widest config of the file, at which the weights are stored.
        taken: Names that initializers must not use.
        repeated: Number of occurrences of each tensor in all widths together, by content.
        tensors: The initializers so far, by name.
    """

    net: Supernet
    widest: WidthConfig
    taken: set[str]
    repeated: Counter[bytes]
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _known: dict[bytes, str] = field(default_factory=dict)

    def constant(self, array: npt.NDArray[Any], name: str | None = None) -> str:
        """Name of an initializer with these values; equal values share one."""
        from onnx import numpy_helper

        proto = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
        digest = content(proto)
        if digest not in self._known:
            new = f"#{len(self.tensors)}" if name is None or name in self.taken else name
            proto.name = self._known[digest] = new
            self.tensors[new] = proto
        return self._known[digest]

    def recipes(self, dense: DenseProgram, config: WidthConfig) -> dict[bytes, _Recipe]:
        """Recipes for the weights of a width from the shared ones, by the content that they produce."""
        found: dict[bytes, _Recipe] = {}
        for name, value in dense.program.state_dict.items():
            first = self.net.analysis.names.get(name)
            if first is None:  # a bias created by folding
                continue
            recipe = self._recipe(first, config, dense.scales.get(name))
            made = recipe.make(self._base(first))
            if made.shape == value.shape and torch.equal(made, value):
                found.setdefault(_digest(value), recipe)
                if value.ndim == 2:  # exporters transpose the weights of linear layers
                    found.setdefault(_digest(value.T), _Recipe(recipe.name, recipe.kept, recipe.scale, turned=True))
        return found

    def nodes(
        self, initializer: onnx.TensorProto, recipes: Mapping[bytes, _Recipe], prefix: str
    ) -> tuple[str, list[onnx.NodeProto]] | None:
        """Name that replaces a width's initializer, and the nodes that compute it from shared ones.

        None if the width keeps its own: no other width uses it, or it is no larger than the nodes.
        """
        from onnx import numpy_helper

        if len(initializer.raw_data) < _SMALL:
            return None
        digest = content(initializer)
        recipe, is_repeated = recipes.get(digest), self.repeated[digest] > 1
        if recipe is None:
            return (self.constant(numpy_helper.to_array(initializer)), []) if is_repeated else None
        stored = self.constant(self._base(recipe.name).numpy(), recipe.name)
        if recipe.is_plain and is_repeated:
            return stored, []
        return recipe.nodes(stored, self.constant, prefix, rows=initializer.dims[0])

    def _base(self, name: str) -> Tensor:
        """Tensor of the supernet at the widest config, as 32-bit floats."""
        tensor = self._tensors[name]
        analysis = self.net.analysis
        part = take(tensor.detach(), analysis.kept(name, analysis.blocks(self.widest)))
        return part.cpu().float().contiguous() if part.is_floating_point() else part.cpu().contiguous()

    @property
    def _tensors(self) -> dict[str, Tensor]:
        model = self.net.model
        return {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def _recipe(self, name: str, config: WidthConfig, scale: Tensor | None) -> _Recipe:
        analysis = self.net.analysis
        wide, narrow = (analysis.kept(name, analysis.blocks(c)) for c in (self.widest, config))
        shape = analysis.shapes[name]
        kept = [_within(n, w, size) for n, w, size in zip(narrow, wide, shape, strict=True)]
        return _Recipe(name, tuple(kept), scale)


_SMALL = 256
"""Bytes below which a tensor is smaller than the nodes that would slice it."""


def _within(narrow: KeptIndices, wide: KeptIndices, size: int) -> KeptIndices:
    """KeptIndices positions as positions within other kept positions."""
    inner, outer = (
        np.arange(size) if k is None else np.arange(k) if isinstance(k, int) else np.asarray(k) for k in (narrow, wide)
    )
    if len(inner) == len(outer):
        return None
    places = np.searchsorted(outer, inner)
    return len(places) if np.array_equal(places, np.arange(len(places))) else places


@dataclass(frozen=True)
class _Recipe:
    """A tensor as a slice of a shared one, times a scale, optionally transposed."""

    name: str
    kept: Sequence[KeptIndices]
    scale: Tensor | None
    turned: bool = False

    @property
    def is_plain(self) -> bool:
        return self.scale is None and not self.turned and all(k is None for k in self.kept)

    def make(self, base: Tensor) -> Tensor:
        part = take(base, self.kept)
        return part if self.scale is None else part * self.scale

    def nodes(self, source: str, constant: Any, prefix: str, *, rows: int) -> tuple[str, list[onnx.NodeProto]]:
        """Name of the result, and the nodes that compute it; a runtime does so once, when it loads the file.

        The result has `rows` entries in its first dimension. Unchanged tensors are sliced as well, because a branch
        that reads outer tensors takes longer to call, the more of them it reads.
        """
        from onnx import helper

        nodes: list[onnx.NodeProto] = []

        def add(operator: str, *inputs: str, **attributes: Any) -> None:
            nonlocal source
            result = f"{prefix}{len(nodes)}"
            nodes.append(helper.make_node(operator, [source, *inputs], [result], **attributes))
            source = result

        cut = [(dim, k) for dim, k in enumerate(self.kept) if isinstance(k, int)]
        if self.is_plain:
            cut = [(0, rows)]
        if cut:
            axes, ends = (np.array(part, dtype=np.int64) for part in zip(*cut, strict=True))
            add("Slice", constant(np.zeros(len(cut), dtype=np.int64)), constant(ends), constant(axes))
        for dim, k in enumerate(self.kept):
            if k is not None and not isinstance(k, int):
                add("Gather", constant(k.astype(np.int32)), axis=dim)
        if self.scale is not None:
            add("Mul", constant(self.scale.numpy()))
        if self.turned:
            add("Transpose", perm=[1, 0])
        return source, nodes


def _digest(tensor: Tensor) -> bytes:
    from onnx import numpy_helper

    return content(numpy_helper.from_array(tensor.detach().contiguous().numpy()))
