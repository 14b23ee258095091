"""Integers that forwards read from their modules (numbers of heads, split sizes), and the channels they count.

For every operator argument in the captured graphs, the labels of the dimension whose size it sets are known. An
attribute with the same value, on the module that called the operator, may count those channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from anywidth.groups.analysis import Attribute, Scale
from anywidth.groups.counts import SizeUse
from anywidth.groups.labels import Array, Labels, varying
from anywidth.groups.stale_sizes import find_equal, find_stale_sizes, read_elsewhere

__all__ = ["find_attributes"]

_MULTIPLES = range(2, 9)
_FIXED_NAMES = ("head_dim", "dim_head", "key_dim", "window", "patch", "kernel", "stride", "size", "area")


def find_attributes(
    model: nn.Module,
    size_uses: Sequence[SizeUse],
    called: frozenset[str],
    dims: Mapping[str, tuple[Array | None, ...]],
    labels: Labels,
    scale_of: Callable[[Array], Scale],
) -> dict[str, dict[str, Attribute]]:
    """For every module path: the integer attributes that may follow channels, with the channels they may count."""
    counted: dict[str, dict[int, dict[Any, Scale]]] = defaultdict(lambda: defaultdict(dict))
    lists: dict[str, dict[int, list[Scale]]] = defaultdict(lambda: defaultdict(list))
    certain: dict[str, dict[str, Attribute]] = defaultdict(dict)
    modules = dict(model.named_modules())
    for number in size_uses:
        scale = Scale(number.value, ())
        if number.label_array is not None:
            vector = labels.find(_vector(number.label_array, number.dim))
            if (vector != vector[0]).any():  # otherwise the dimension is always kept whole
                scale = scale_of(vector)
        # Otherwise the forward calls the functional form, with a number from elsewhere.
        own = number.attribute is not None and getattr(modules[number.module], number.attribute, None) == number.value
        if number.attribute is not None and own:
            if scale.parts:
                certain[number.module][number.attribute] = Attribute((((scale, 1),),))
            continue
        if number.call >= 0:
            lists[number.module][number.call].append(scale)
        if scale.full == number.value:
            counted[number.module][number.value].setdefault(_identity(scale), scale)
    found: dict[str, dict[str, Attribute]] = {}
    elsewhere = read_elsewhere(model)
    for path, module in modules.items():
        attributes = dict(certain.get(path, {}))
        # A method other than forward was called: its operators are recorded for the calling module.
        caller = path if path in called else path.rpartition(".")[0]
        known = counted.get(caller)
        own = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.MultiheadAttention)
        unread = {} if own else find_stale_sizes(path, module, dims, scale_of, elsewhere)
        if known and not own:
            for name, value in vars(module).items():
                attribute = _whole_list(value, lists[caller].values()) or _attribute(name, value, known)
                if attribute is not None:
                    attributes[name] = attribute
        attributes.update(unread)
        if not own:
            for name, attribute in find_equal(path, module, dims, scale_of).items():
                attributes.setdefault(name, attribute)
        if attributes:
            found[path] = attributes
    return found


def _attribute(name: str, value: Any, known: dict[int, dict[Any, Scale]]) -> Attribute | None:
    values = value if isinstance(value, (tuple, list)) else (value,)
    if name.startswith("_") or not values or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        return None
    choices = tuple(_choices(name, number, known) for number in values)
    if not any(scale.parts for options in choices for scale, _ in options):
        return None
    return Attribute(choices)


def _whole_list(value: Any, lists: Iterable[list[Scale]]) -> Attribute | None:
    """The meaning of a tuple that is passed to an operator unchanged, such as the shape of a view."""
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, int) and v > 0 for v in value):
        return None
    wanted = [v for v in value if v > 1]
    for scales in lists:
        sizes = [scale.full for scale in scales]
        for start in range(len(sizes) - len(wanted) + 1 if len(wanted) > 1 else 0):
            part = scales[start : start + len(wanted)]
            if sizes[start : start + len(wanted)] == wanted and any(scale.parts for scale in part):
                found = iter(part)
                scales = [next(found) if v > 1 else Scale(1, ()) for v in value]
                return Attribute(
                    tuple(
                        ((scale, 1), (Scale(v, ()), 1)) if scale.parts else ((scale, 1),)
                        for v, scale in zip(value, scales, strict=True)
                    )
                )
    return None


def _choices(name: str, value: int, known: dict[int, dict[Any, Scale]]) -> tuple[tuple[Scale, int], ...]:
    fixed = (Scale(value, ()), 1)
    scales = list(known.get(value, {}).values()) if value > 1 else []
    elastic = [(scale, 1) for scale in scales if scale.parts]
    multiples = []
    for factor in _MULTIPLES:
        if value > 1 and value % factor == 0:
            multiples += [(s, factor) for s in known.get(value // factor, {}).values() if s.parts]
    stays = any(not scale.parts for scale in scales)
    if (stays or not elastic) and any(word in name for word in _FIXED_NAMES):
        return (fixed, *elastic, *multiples)
    if elastic:
        return (*elastic, fixed, *multiples)
    return (*multiples, fixed) if multiples and not stays else (fixed, *multiples)


def _vector(label_array: Array, dim: int) -> Array:
    """The labels along one dimension, at the first position of the other dimensions."""
    for other in varying(label_array) - {dim}:
        label_array = label_array.take([0], axis=other)
    return label_array.reshape(-1)


def _identity(scale: Scale) -> Any:
    return scale.fixed, tuple((group, sizes.tobytes()) for group, sizes in scale.parts)
