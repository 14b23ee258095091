"""Compute channel groups from labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt
from torch import nn

from anywidth.core.modules import named_tensors
from anywidth.groups.analysis import Analysis, Axis, ChannelGroup, CountedOperator, Scale
from anywidth.groups.attributes import find_attributes
from anywidth.groups.counts import Cost
from anywidth.groups.labels import FIXED, Array
from anywidth.groups.propagate import Propagation, canonical_names

__all__ = ["solve"]

AxisKey = tuple[str, int]


@dataclass
class _Draft:
    """A group under construction: its classes of labels in order, and where they are made."""

    classes: Array
    axes: list[AxisKey]
    made_by: list[AxisKey]
    frozen: str | None
    block_size: int = 1


def solve(model: nn.Module, found: Propagation) -> Analysis:
    """Channel groups from propagated labels: classes that occur in the same dimensions form one group."""
    roots = {
        (name, dim): found.labels.find(vector)
        for name, vectors in found.dims.items()
        for dim, vector in enumerate(vectors)
        if vector is not None
    }
    makers = _makers(found.costs)
    reasons = found.labels.reasons()
    split_points = [found.labels.find(cut).reshape(-1) for cut in found.split_points]
    drafts = [
        _draft(axes, classes, reasons, roots, makers) for axes, classes in _signatures(roots, split_points, reasons)
    ]
    order = {key: i for i, key in enumerate(makers)}
    tensors = named_tensors(model)
    numbers = {name: tensors[name].is_floating_point() or tensors[name].is_complex() for name in found.dims}
    drafts = [
        draft
        for draft in drafts
        if draft.made_by or (draft.frozen is None and _channels_at_the_end(draft.axes, found.dims, numbers))
    ]
    drafts.sort(key=lambda d: (min((order[k] for k in d.made_by), default=len(order)), int(d.classes[0])))
    group_of = np.full(len(found.labels), -1, np.int32)
    index_of = np.zeros(len(found.labels), np.int32)
    for number, draft in enumerate(drafts):
        group_of[draft.classes] = number
        index_of[draft.classes] = np.arange(draft.classes.size)
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for name, vectors in found.dims.items():
        entry = []
        for dim in range(len(vectors)):
            vector = roots.get((name, dim))
            elastic = vector is not None and (group_of[vector] >= 0).any()
            entry.append(Axis(group_of[vector], index_of[vector]) if vector is not None and elastic else None)
        if any(axis is not None for axis in entry):
            axes[name] = tuple(entry)

    def scale_of(labels: Array) -> Scale:
        return _scale(found.labels.find(labels), group_of, index_of)

    names = _names(drafts, roots)
    groups = tuple(_group(draft, name, roots) for draft, name in zip(drafts, names, strict=True))
    analysis = Analysis(
        groups=groups,
        axes=axes,
        names=canonical_names(model),
        shapes={name: tuple(tensors[name].shape) for name in found.dims},
        operators=tuple(
            CountedOperator(
                module=cost.module,
                operator=cost.operator,
                kind=cost.kind,
                macs=cost.macs,
                scales=tuple(scale for scale in map(scale_of, cost.label_arrays) if scale.parts),
                inputs=cost.inputs,
                sizes=cost.sizes,
                weight=cost.weight,
            )
            for cost in found.costs
            if cost.macs
        ),
        attributes=find_attributes(model, found.size_uses, found.called, found.dims, found.labels, scale_of),
        uncounted=found.uncounted,
        unknown=found.unknown,
    )
    return analysis.with_ratios(_ratios(drafts, groups, found.costs, analysis))


def _channels_at_the_end(
    axes: list[AxisKey], dims: dict[str, tuple[Array | None, ...]], numbers: dict[str, bool]
) -> bool:
    """Whether a tensor of real numbers has these as its last dimension, where embeddings and norms have channels.

    Otherwise, and in position tables, they are tokens, without a layer that makes them.
    """
    return any(numbers[name] and dim == len(dims[name]) - 1 for name, dim in axes)


def _makers(costs: tuple[Cost, ...]) -> dict[AxisKey, None]:
    """Dimensions of weights along which new channels are made, in the order of the graph."""
    return {(cost.weight, dim): None for cost in costs if cost.weight is not None for dim in cost.out_dims}


def _signatures(
    roots: dict[AxisKey, Array], split_points: list[Array], reasons: dict[int, str]
) -> list[tuple[tuple[AxisKey, ...], Array]]:
    """Classes of labels by the set of dimensions and cuts in which they occur, and by frozen reason."""
    keys = list(roots)
    classes = [np.unique(vector) for vector in (*roots.values(), *split_points)]
    pairs = np.concatenate(classes) if classes else np.zeros(0, np.int64)
    owners = np.repeat(np.arange(len(classes)), [c.size for c in classes])
    order = np.lexsort((owners, pairs))
    pairs, owners = pairs[order], owners[order]
    starts = np.flatnonzero(np.r_[True, pairs[1:] != pairs[:-1]]) if pairs.size else np.zeros(0, np.int64)
    members: dict[tuple[tuple[int, ...], str | None], list[int]] = defaultdict(list)
    for start, stop in zip(starts, np.r_[starts[1:], pairs.size], strict=True):
        root = int(pairs[start])
        if root != FIXED:
            members[tuple(owners[start:stop].tolist()), reasons.get(root)].append(root)
    return [
        (tuple(keys[i] for i in owners if i < len(keys)), np.array(found)) for (owners, _), found in members.items()
    ]


def _draft(
    axes: tuple[AxisKey, ...],
    classes: Array,
    reasons: dict[int, str],
    roots: dict[AxisKey, Array],
    makers: dict[AxisKey, None],
) -> _Draft:
    made_by = [key for key in makers if key in set(axes)]
    reference = roots[(made_by or list(axes))[0]]
    positions = np.flatnonzero(np.isin(reference, classes))
    present, first, counts = np.unique(reference[positions], return_index=True, return_counts=True)
    draft = _Draft(present[np.argsort(first)], list(axes), made_by, reasons.get(int(classes[0])), int(counts[0]))
    if draft.frozen is None and (counts != counts[0]).any():
        draft.frozen, draft.block_size = "its channels come in pieces of different sizes", 1
    elif draft.frozen is None and present.size < 2:
        draft.frozen = "all its channels depend on one another (by channel shuffles or splits)"
    return draft


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] if tensor.endswith((".weight", ".bias")) else tensor


def shared_path(paths: Iterable[str]) -> str:
    """The longest common prefix of dotted paths, or ""."""
    parts = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))


def _names(drafts: list[_Draft], roots: dict[AxisKey, Array]) -> list[str]:
    """A name per group: the common path of its producers, otherwise the first of them, otherwise with positions."""
    paths = [[_module(name) for name, _ in (d.made_by or d.axes[:1])] for d in drafts]
    common = []
    for producers in paths:
        common.append(shared_path(producers) if len(producers) > 1 else "")
    inside = [path for producers in paths for path in set(producers)]
    names = []
    for producers, prefix in zip(paths, common, strict=True):
        alone = prefix and common.count(prefix) == 1 and prefix not in inside
        names.append(prefix if alone else producers[0])
    counts = Counter(names)
    for i, (draft, name) in enumerate(zip(drafts, list(names), strict=True)):
        if counts[name] > 1:
            key = (draft.made_by or draft.axes)[0]
            positions = np.flatnonzero(np.isin(roots[key], draft.classes))
            names[i] = f"{name}[{positions[0]}:{positions[-1] + 1}]"
    seen: dict[str, int] = defaultdict(int)
    for i, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[i] = f"{name}#{seen[name]}"
    return names


def _group(draft: _Draft, name: str, roots: dict[AxisKey, Array]) -> ChannelGroup:
    reference = roots[(draft.made_by or draft.axes)[0]]
    return ChannelGroup(
        name=name,
        channels=int(np.isin(reference, draft.classes).sum()),
        block_size=draft.block_size,
        producers=tuple(dict.fromkeys(_module(tensor) for tensor, _ in draft.made_by)),
        members=tuple(f"{tensor}[{dim}]" for tensor, dim in draft.axes),
        frozen=draft.frozen,
    )


def _scale(vector: Array, group_of: npt.NDArray[np.int32], index_of: npt.NDArray[np.int32]) -> Scale:
    """The number of kept positions of a vector of labels, by representative."""
    groups, indices = group_of[vector], index_of[vector]
    parts = []
    for number in np.unique(groups[groups >= 0]).tolist():
        counts = np.bincount(indices[groups == number], minlength=int((group_of == number).sum()))
        parts.append((number, np.concatenate([[0], np.cumsum(counts)])))
    return Scale(int((groups < 0).sum()), tuple(parts))


def _ratios(
    drafts: list[_Draft], groups: tuple[ChannelGroup, ...], costs: tuple[Cost, ...], analysis: Analysis
) -> dict[str, int]:
    """Expansion ratios of inverted residuals: 1x1 expand, depthwise, 1x1 project to fewer channels.

    The MobileNetV2 rule of the papers rounds the channels before the expansion and multiplies back.
    """
    grouped = {cost.weight for cost in costs if cost.kind == "grouped conv"}
    ratios = {}
    for draft, group in zip(drafts, groups, strict=True):
        depthwise = any(name in grouped for name, _ in draft.axes)
        if group.frozen or not depthwise or len(draft.made_by) != 1:
            continue
        maker, out_dim = draft.made_by[0]
        shape = analysis.shapes[maker]
        if len(shape) < 3 or any(size != 1 for size in shape[2:]):
            continue
        narrow = shape[1 - out_dim]
        projections = [
            analysis.shapes[name][0]
            for name, dim in draft.axes
            if dim == 1 and len(analysis.shapes[name]) == len(shape) and name not in grouped
        ]
        ratio, rest = divmod(group.channels, narrow)
        # Squeeze-excite also reads the expanded channels; the widest reader is the projection.
        if rest == 0 and ratio > 1 and projections and max(projections) < group.channels:
            ratios[group.name] = ratio
    return ratios
