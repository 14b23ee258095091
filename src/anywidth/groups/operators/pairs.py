"""Products of several operands, counted two at a time, as they are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anywidth.groups.flow import Flow
from anywidth.groups.labels import Array, varying
from anywidth.groups.value import Operand, multiplied

__all__ = ["contract_in_pairs"]


def contract_in_pairs(
    flow: Flow, operands: Sequence[Operand], out: Sequence[object], path: Sequence[int] | None = None
) -> list[Array]:
    """Labels of a sum of products of any number of operands, in the notation of `Flow.merge`.

    Every pair is counted as a matrix product. Letters that only one of the two has and that are not needed later are
    summed before, by additions alone. A pair without a sum is an element-wise product, which does not count. A pair of
    weights counts once for any batch.

    Args:
        flow: The propagation.
        operands: The factors.
        out: The letters of the result.
        path: Numbers of the operands of every pair among the remaining ones, pair after pair; a product is appended to
            them. By default from left to right, as in PyTorch.
    """
    result, summed = flow.merge(operands, out)
    every = tuple(dict.fromkeys(axis_name for operand in operands for axis_name in operand.axis_names))
    labelled = [
        *((label_array, tuple(out)) for label_array in result),
        *((label_array, every) for label_array in summed),
    ]
    sizes: dict[object, int] = {}
    for operand in operands:
        for axis_name, size in zip(operand.axis_names, operand.value.shape, strict=True):
            sizes[axis_name] = max(size, sizes.get(axis_name, 1))
    waiting = [(set(operand.axis_names), operand.value.source is not None, [operand]) for operand in operands]
    count = len(operands)
    numbers = iter(path or [n for step in range(count - 1) for n in (0, count - 1 - step if step else 1)])
    for first, second in zip(numbers, numbers, strict=True):
        pair = [waiting[first], waiting[second]]
        waiting = [each for number, each in enumerate(waiting) if number not in (first, second)]
        (left, *_), (right, *_) = pair
        later = set(out).union(*(axis_names for axis_names, *_ in waiting))
        used = (left & right) | ((left | right) & later)
        macs = math.prod(sizes[axis_name] for axis_name in used) if used - later else 0
        scales = [_restricted(label_array, axis_names, used) for label_array, axis_names in labelled]
        weights = multiplied([operand for *_, found in pair for operand in found], out)
        constant = all(known for _, known, _ in pair)
        inputs, flow.inputs = flow.inputs, frozenset() if constant else flow.inputs
        flow.record("matmul", macs, [scale for scale in scales if scale.size > 1], *weights)
        flow.inputs = inputs
        waiting.append((used & later, constant, []))
    return result


def _restricted(label_array: Array, axis_names: Sequence[object], wanted: set[object]) -> Array:
    """Labels along some of the letters, at the first position of the other letters."""
    for dim in varying(label_array):
        if axis_names[dim] not in wanted:
            label_array = label_array.take([0], axis=dim)
    return label_array
