"""The channels that integer attributes count: choices are tried until one passes the proof.

An integer has the same meaning in all modules of a class, so one choice applies to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
from torch import nn

from anywidth.groups.adapters import repeated
from anywidth.groups.analysis import Analysis, Attribute, Coincidence
from anywidth.groups.draws import NARROWEST
from anywidth.groups.prover import Prover

__all__ = [
    "Integer",
    "assignments",
    "choose",
    "doubtful",
    "drop_unneeded",
    "follow",
    "following",
    "integers",
    "leave_alone",
    "without_coincidences",
]

_MOST = 24
"""Maximum number of assignments tried for one class."""


@dataclass(frozen=True)
class Integer:
    """One integer of an attribute, in all modules of a class."""

    kind: type
    attribute: str
    index: int


def integers(model: nn.Module, analysis: Analysis) -> dict[Integer, list[tuple[str, Attribute]]]:
    """The integers with a choice, and their modules."""
    found: dict[Integer, list[tuple[str, Attribute]]] = {}
    for path, attributes in analysis.attributes.items():
        kind = type(model.get_submodule(path))
        for name, attribute in attributes.items():
            for index, options in enumerate(attribute.choices):
                if len(options) > 1:
                    found.setdefault(Integer(kind, name, index), []).append((path, attribute))
    return found


def choose(model: nn.Module, analysis: Analysis, choices: Mapping[Integer, int]) -> Analysis:
    """A copy of the analysis with different choices for some integers."""
    attributes = {path: dict(found) for path, found in analysis.attributes.items()}
    places = integers(model, analysis)
    for integer, choice in choices.items():
        for path, _ in places.get(integer, ()):
            attribute = attributes[path][integer.attribute]
            last = len(attribute.choices[integer.index]) - 1
            attributes[path][integer.attribute] = attribute.choose(integer.index, min(choice, last))
    return replace(analysis, attributes=attributes)


def assignments(model: nn.Module, analysis: Analysis, kind: type) -> list[dict[Integer, int]]:
    """Choices to try for the integers of a class, the most likely first."""
    options = {
        integer: max(len(attribute.choices[integer.index]) for _, attribute in places)
        for integer, places in integers(model, analysis).items()
        if integer.kind is kind
    }
    first, second = dict.fromkeys(options, 0), dict.fromkeys(options, 1)
    found = [dict.fromkeys(options, choice) for choice in range(1, min(max(options.values(), default=1), 4))]
    found += [{**first, integer: 1} for integer in options]
    found += [{**second, integer: 0} for integer in options]
    found += [{**first, a: 1, b: 1} for a, b in combinations(options, 2)]
    distinct = {tuple(each.items()): each for each in found if each != first}
    return list(distinct.values())[:_MOST]


def following(model: nn.Module, analysis: Analysis) -> list[Integer]:
    """The integers with a choice that subnets change."""
    blocks = _narrowest(analysis)
    return [
        integer
        for integer, places in integers(model, analysis).items()
        if any(a.value(integer.index, a.choice(integer.index), blocks) != a.full(integer.index) for _, a in places)
    ]


def doubtful(model: nn.Module, analysis: Analysis) -> list[Integer]:
    """The integers that subnets leave alone although they may count channels."""
    blocks = _narrowest(analysis)
    return [
        integer
        for integer, places in integers(model, analysis).items()
        if any(_candidate(a, integer.index, blocks) is not None for _, a in places)
        and any(a.value(integer.index, a.choice(integer.index), blocks) == a.full(integer.index) for _, a in places)
    ]


def drop_unneeded(model: nn.Module, analysis: Analysis, prover: Prover) -> Analysis:
    """A copy in which an integer follows channels only if the network is wrong otherwise.

    Integers of torch's layers always follow if they may, so that a layer agrees with its weight.
    """
    dropped = analysis
    candidates = [each for each in following(model, analysis) if each.attribute not in repeated(each.kind)]
    for integer in candidates:
        trial = leave_alone(model, dropped, integer)
        if prover.prove(trial, trial.elastic, draws=[NARROWEST]) is None:
            dropped = trial
    if dropped is analysis or prover.prove(dropped, dropped.elastic) is None:
        return dropped
    for integer in candidates:  # another draw needs one of them
        trial = leave_alone(model, analysis, integer)
        if prover.prove(trial, trial.elastic) is None:
            analysis = trial
    return analysis


def leave_alone(model: nn.Module, analysis: Analysis, integer: Integer) -> Analysis:
    """A copy with one integer left alone in all modules of its class."""
    return _choose_each(analysis, integers(model, analysis)[integer], integer, lambda a: a.left_alone(integer.index))


def follow(model: nn.Module, analysis: Analysis, integer: Integer) -> Analysis:
    """A copy in which one integer follows the channels that it most likely counts."""
    blocks = _narrowest(analysis)
    places = integers(model, analysis)[integer]
    return _choose_each(analysis, places, integer, lambda a: _candidate(a, integer.index, blocks))


def without_coincidences(analysis: Analysis) -> Analysis:
    """A copy without attributes that do not follow; those that equal a number of channels are listed."""
    blocks = _narrowest(analysis)
    listed: list[Coincidence] = []
    attributes: dict[str, dict[str, Attribute]] = {}
    for path, found in analysis.attributes.items():
        for name, attribute in found.items():
            alone = [
                index
                for index, value in enumerate(attribute.values(blocks))
                if value == attribute.full(index) and len(attribute.choices[index]) > 1
            ]
            if len(alone) < len(attribute.choices):
                attributes.setdefault(path, {})[name] = attribute
            for index in alone:
                choice = _candidate(attribute, index, blocks)
                if choice is not None:
                    scale, factor = attribute.choices[index][choice]
                    names = tuple(analysis.groups[number].name for number, _ in scale.parts)
                    value = attribute.full(index)
                    listed.append(Coincidence(module=path, attribute=name, value=value, groups=names, factor=factor))
    return replace(analysis, attributes=attributes, coincidences=tuple(dict.fromkeys(listed)))


def _choose_each(
    analysis: Analysis,
    places: Sequence[tuple[str, Attribute]],
    integer: Integer,
    choice_of: Callable[[Attribute], int | None],
) -> Analysis:
    attributes = {path: dict(found) for path, found in analysis.attributes.items()}
    for path, attribute in places:
        choice = choice_of(attribute)
        if choice is not None:
            attributes[path][integer.attribute] = attribute.choose(integer.index, choice)
    return replace(analysis, attributes=attributes)


def _candidate(attribute: Attribute, index: int, blocks: npt.NDArray[np.int64]) -> int | None:
    """The choice by which an integer most likely follows channels; a multiple only if that is the first guess."""
    for choice, (_, factor) in enumerate(attribute.choices[index]):
        if (factor == 1 or choice == 0) and attribute.value(index, choice, blocks) != attribute.full(index):
            return choice
    return None


def _narrowest(analysis: Analysis) -> npt.NDArray[np.int64]:
    return analysis.blocks({group.name: group.block_size for group in analysis.elastic})
