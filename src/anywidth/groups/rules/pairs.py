"""Products of several operands, counted as they are computed: two at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anywidth.groups.flow import Flow, Operand, multiplied
from anywidth.groups.labels import Array, varying

__all__ = ["contract_in_pairs"]


def contract_in_pairs(
    flow: Flow, operands: Sequence[Operand], out: Sequence[object], path: Sequence[int] | None = None
) -> list[Array]:
    """Labels of a sum of products of any number of operands, in the notation of `Flow.merge`.

    Every pair is counted as a matrix product. What only one of the two has and nothing needs later is summed before,
    by additions alone. A pair that sums nothing is an element-wise product, which does not count. A pair of weights
    is the same for any batch.

    Args:
        flow: The propagation.
        operands: What is multiplied.
        out: The letters of the result.
        path: Numbers of the operands of every pair, one pair after the other, of those that are left; a product comes
            last of them. From left to right by default, as in PyTorch.
    """
    result, summed = flow.merge(operands, out)
    every = tuple(dict.fromkeys(letter for operand in operands for letter in operand.letters))
    labelled = [*((facet, tuple(out)) for facet in result), *((facet, every) for facet in summed)]
    sizes: dict[object, int] = {}
    for operand in operands:
        for letter, size in zip(operand.letters, operand.value.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    waiting = [(set(operand.letters), operand.value.source is not None, [operand]) for operand in operands]
    count = len(operands)
    numbers = iter(path or [n for step in range(count - 1) for n in (0, count - 1 - step if step else 1)])
    for first, second in zip(numbers, numbers, strict=True):
        pair = [waiting[first], waiting[second]]
        waiting = [each for number, each in enumerate(waiting) if number not in (first, second)]
        (left, *_), (right, *_) = pair
        later = set(out).union(*(letters for letters, *_ in waiting))
        used = (left & right) | ((left | right) & later)
        macs = math.prod(sizes[letter] for letter in used) if used - later else 0
        scales = [_restricted(facet, letters, used) for facet, letters in labelled]
        weights = multiplied([operand for *_, found in pair for operand in found], out)
        constant = all(known for _, known, _ in pair)
        inputs, flow.inputs = flow.inputs, frozenset() if constant else flow.inputs
        flow.record("matmul", macs, [scale for scale in scales if scale.size > 1], *weights)
        flow.inputs = inputs
        waiting.append((used & later, constant, []))
    return result


def _restricted(facet: Array, letters: Sequence[object], wanted: set[object]) -> Array:
    """Labels along some of the letters, at the first position of the others."""
    for dim in varying(facet):
        if letters[dim] not in wanted:
            facet = facet.take([0], axis=dim)
    return facet
