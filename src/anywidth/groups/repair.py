"""Prove channel groups; repair or freeze those that fail, and repeat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from anywidth.core.inputs import Inputs
from anywidth.groups.adapters import repeated
from anywidth.groups.analysis import Analysis, ChannelGroup
from anywidth.groups.capture import Capture
from anywidth.groups.draws import NARROWEST, RANDOM, ROUNDED
from anywidth.groups.labels import varying
from anywidth.groups.meanings import (
    Integer,
    assignments,
    choose,
    drop_unneeded,
    following,
    integers,
    leave_alone,
    without_coincidences,
)
from anywidth.groups.other_inputs import reconcile, try_other_inputs
from anywidth.groups.propagate import Propagation
from anywidth.groups.prover import Failure, Prover
from anywidth.groups.solve import shared_path, solve

__all__ = ["prove_groups"]

_ROUNDS = 40
_STEPS = 16
"""Maximum number of remedies for one class, after which groups at fault are frozen one by one."""
_IN_TRAINING = (RANDOM[0], NARROWEST, ROUNDED[1])
"""Number of draws in training mode, for forwards that do more in it."""
_SILENT = "nothing depends on these channels for the example inputs, so nothing can be proved about them"


def prove_groups(
    model: nn.Module, found: Propagation, captures: Sequence[Capture], inputs: Inputs, *, run_training: bool = False
) -> Analysis:
    """The proved channel groups of a model; groups that cannot be proved are frozen with the reason.

    All groups are narrowed together to random numbers of channels. If the narrowed network does not run, the class of
    the module at fault is repaired in steps: try other meanings of its integer attributes, then tie channels that its
    forward assumes to be equal in number, and finally freeze the groups at fault, in all modules of that class. If it
    runs but differs, a group at fault is found by halving and frozen. When a second group with the same role in modules
    of one class fails, it is frozen in all of them. Numbers are compared in evaluation mode (the last capture), and in
    training if the training forward does more and was captured. If it was not captured (`run_training`), it must run.
    """
    repair = _Repair(model, found, solve(model, found))
    differ = len({(frozenset(capture.operators().items()), capture.used()) for capture in captures}) > 1
    prover = Prover(model, found, captures[-1], inputs, training=differ or run_training)
    groups: Sequence[ChannelGroup] = ()
    for _ in range(_ROUNDS):
        groups = repair.analysis.elastic
        failure = prover.prove(repair.analysis, groups) if groups else None
        if failure is None:
            silent = prover.silent(repair.analysis)
            if silent:
                repair.freeze({group.name: _SILENT for group in silent})
                continue
            failure = prover.require_equal(repair.analysis)
            if failure is None:
                return repair.finish(prover, _in_training(model, found, captures, inputs), inputs)
            repair.give_up(*prover.fault(repair.analysis, groups, failure))
            continue
        repaired = repair.reconsider(failure, prover) if failure.module is None else repair.step(failure, prover)
        if not repaired:
            repair.give_up(*prover.fault(repair.analysis, groups, failure))
    return repair.analysis.freeze({group.name: "no proof within the rounds allowed" for group in groups})


def _in_training(model: nn.Module, found: Propagation, captures: Sequence[Capture], inputs: Inputs) -> Prover | None:
    """Proofs of the forward in training, if it was captured."""
    capture = captures[0]
    return (
        Prover(model, replace(found, label_arrays=found.training_label_arrays), capture, inputs)
        if capture.training
        else None
    )


@dataclass
class _Repair:
    """The remedies tried for every class of modules."""

    model: nn.Module
    found: Propagation
    analysis: Analysis
    steps: dict[type, int] = field(default_factory=lambda: defaultdict(int))
    tried: dict[type, list[dict[Integer, int]]] = field(default_factory=lambda: defaultdict(list))
    reconsidered: dict[tuple[Integer, ...], int] = field(default_factory=lambda: defaultdict(int))
    chosen: dict[Integer, int] = field(default_factory=dict)
    frozen: dict[frozenset[str], str] = field(default_factory=dict)
    tied: set[type] = field(default_factory=set)
    untied: dict[type, Any] = field(default_factory=dict)
    given_up: dict[type, set[frozenset[str]]] = field(default_factory=lambda: defaultdict(set))

    def step(self, failure: Failure, prover: Prover) -> bool:
        """Try the next remedy for the module at fault; False if there is none left."""
        assert failure.module is not None
        kind = type(self.model.get_submodule(failure.module))
        paths = self._paths(kind)
        self.steps[kind] += 1
        if self._assign(kind, failure, prover):
            return True
        if kind not in self.tied:
            self.tied.add(kind)
            self.untied[kind] = self.found.labels.snapshot()
            if self._tie(paths):
                self._resolve()
                return True
        if kind in self.untied and self._freeze_alike(failure, paths, prover, few=True):
            return True
        if kind in self.untied:
            self.found.labels.restore(self.untied.pop(kind))
            self._resolve()
        if self.reconsider(failure, prover):
            return True
        if failure.module and self.steps[kind] <= _STEPS:
            return self._freeze_alike(failure, paths, prover)
        return False

    def reconsider(self, failure: Failure, prover: Prover) -> bool:
        """Leave alone an integer of any class if the failed draw then passes; False if there is no such integer.

        The numbers of torch's layers, which several classes may use, are left alone together.
        """
        numbers = following(self.model, self.analysis)
        layers = [integer for integer in numbers if integer.attribute in repeated(integer.kind)]
        for several in [[integer] for integer in numbers] + [layers] * (len(layers) > 1):
            if self.reconsidered[tuple(several)] >= 2:
                continue
            self.reconsidered[tuple(several)] += 1
            trial = self.analysis
            for integer in several:
                trial = leave_alone(self.model, trial, integer)
            if prover.prove(trial, trial.elastic, draws=[failure.draw]) is None:
                return self._accept(trial)
        return False

    def finish(self, prover: Prover, training: Prover | None, inputs: Inputs) -> Analysis:
        """The proved analysis, in which integers follow channels only if needed."""
        analysis = drop_unneeded(self.model, self.analysis, prover)
        analysis = try_other_inputs(self.model, analysis, prover, inputs)
        if training is not None and training.prove(analysis, [], draws=_IN_TRAINING[:1]) is None:
            analysis = reconcile(self.model, analysis, prover, training, "in training", draws=_IN_TRAINING)
        return without_coincidences(analysis)

    def _assign(self, kind: type, failure: Failure, prover: Prover) -> bool:
        """Choose other meanings for the integers of a class with which the draw passes, or at least runs there."""
        running: Analysis | None = None
        for choices in assignments(self.model, self.analysis, kind):
            if choices in self.tried[kind]:
                continue
            self.tried[kind].append(choices)
            trial = choose(self.model, self.analysis, choices)
            found = prover.prove(trial, trial.elastic, draws=[failure.draw])
            if found is None or (found.module is not None and type(self.model.get_submodule(found.module)) is not kind):
                return self._accept(trial)
            if running is None and found.module is None:
                running = trial
        return running is not None and self._accept(running)

    def _accept(self, analysis: Analysis) -> bool:
        self.analysis = analysis
        for integer, places in integers(self.model, analysis).items():
            self.chosen[integer] = max(attribute.choice(integer.index) for _, attribute in places)
        return True

    def give_up(self, group: ChannelGroup, failure: Failure) -> None:
        """Freeze a group; if the same group failed in another module of the class, freeze it in all of them."""
        home = self._home(group)
        kind = type(self.model.get_submodule(home))
        roles = _roles(group, home)
        alike = [group]
        if home and roles in self.given_up[kind]:
            alike.extend(g for path in self._paths(kind) for g in self.analysis.elastic if _roles(g, path) == roles)
        self.given_up[kind].add(roles)
        self.freeze({each.name: failure.text for each in alike})

    def freeze(self, reasons: dict[str, str]) -> None:
        """Freeze groups by name, also after every new solution."""
        for group in self.analysis.groups:
            if group.name in reasons:
                self.frozen[frozenset(group.members)] = reasons[group.name]
        self.analysis = self.analysis.freeze(reasons)

    def _paths(self, kind: type) -> list[str]:
        return [path for path, module in self.model.named_modules() if type(module) is kind]

    def _home(self, group: ChannelGroup) -> str:
        """The innermost module around all members of a group whose class does not belong to torch."""
        path = shared_path(member.rpartition(".")[0] for member in group.members)
        while path and type(self.model.get_submodule(path)).__module__.startswith("torch.nn"):
            path = path.rpartition(".")[0]
        return path

    def _tie(self, paths: Sequence[str]) -> bool:
        """Tie inner channels to incoming channels if a forward assumes that their numbers are equal.

        Only channels that can be narrowed are tied: a causal mask may have as many positions as there are channels.
        """
        labels, tied = self.found.labels, False
        elastic = np.array([*(group.frozen is None for group in self.analysis.groups), False])
        for path in paths:
            inner = {}
            for number in self.found.size_uses:
                if number.module == path and number.label_array is not None:
                    label_array = labels.compress(number.label_array)
                    if varying(label_array) == {number.dim} and label_array.size == number.value:
                        inner[number.value] = label_array.reshape(-1)
            for name, vectors in self.found.dims.items():
                if name.startswith(f"{path}.") and len(vectors) > 1 and vectors[1] is not None:
                    inner.setdefault(vectors[1].size, vectors[1])
            for size, vector in inner.items():
                for name, vectors in self.found.dims.items():
                    if not name.startswith(f"{path}."):
                        continue
                    for partner, axis in zip(vectors, self.analysis.axes.get(name, ()), strict=False):
                        if partner is None or axis is None or partner.size != size or not elastic[axis.group].all():
                            continue
                        if (labels.find(partner) != labels.find(vector)).any():
                            labels.union(partner, vector, f"as many as the channels that enter {path}")
                            tied = True
        return tied

    def _resolve(self) -> None:
        # Ties change what integers count, so earlier attempts may be right now.
        self.tried.clear()
        analysis = choose(self.model, solve(self.model, self.found), self.chosen)
        self.analysis = analysis.freeze(
            {g.name: self.frozen[frozenset(g.members)] for g in analysis.groups if frozenset(g.members) in self.frozen}
        )

    def _freeze_alike(self, failure: Failure, paths: Sequence[str], prover: Prover, *, few: bool = False) -> bool:
        """Freeze the groups at fault in one module, and those with the same members in all modules of its class.

        With `few`, only groups that fail in this class while others do not; False if there are no such groups.
        """
        assert failure.module is not None
        touching = [g for g in self.analysis.elastic if _roles(g, failure.module)]
        culprits: list[ChannelGroup] = []
        text = failure.text
        if len(touching) <= 12:
            for group in touching:
                alone = prover.prove(self.analysis, [group])
                elsewhere = few and alone is not None and alone.module not in paths
                if alone is not None and not elsewhere:
                    culprits.append(group)
                    text = alone.text
        if few and not 0 < len(culprits) < len(touching):
            return False
        made = [g for g in touching if any(_inside(p, failure.module) for p in g.producers)]
        culprits = [group for group in culprits if group in made] or culprits or made or touching
        roles = [_roles(group, failure.module) for group in culprits]
        reasons = {group.name: text for group in culprits}
        for path in paths:
            if path == failure.module:
                continue
            theirs = {group.name: _roles(group, path) for group in self.analysis.elastic}
            for role in roles:
                # Parts of one dimension share it but also have other members.
                same = [name for name, members in theirs.items() if members == role]
                reasons.update((name, text) for name in same or (n for n, members in theirs.items() if role & members))
        self.freeze(reasons)
        return bool(reasons)


def _inside(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def _roles(group: ChannelGroup, path: str) -> frozenset[str]:
    """The members of a group inside a module, by their names in it."""
    prefix = f"{path}." if path else ""
    return frozenset(member.removeprefix(prefix) for member in group.members if member.startswith(prefix))
