"""Summary of an analysis, as text."""

from __future__ import annotations

import re

from anywidth.groups import Analysis
from anywidth.groups.operators import adds_up

__all__ = ["elastic_share", "summary"]


def elastic_share(analysis: Analysis) -> float:
    """Share of the MACs (convolutions, matrix products) that shrink when groups are narrowed, in [0, 1]."""
    elastic = {group.name for group in analysis.elastic}
    total = moved = 0
    for operator in analysis.operators:
        if operator.kind == "average pool":
            continue
        total += operator.macs
        groups = {analysis.groups[number].name for scale in operator.scales for number, _ in scale.parts}
        moved += operator.macs if groups & elastic else 0
    return moved / total if total else 0.0


def _coincidences(analysis: Analysis) -> list[str]:
    """One line per attribute that subnets leave alone; modules whose names differ only in a number share one."""
    found: dict[str, list[str]] = {}
    for each in analysis.coincidences:
        times = f"{each.factor} times " if each.factor > 1 else ""
        groups = " and ".join(re.sub(r"\d+", "*", name) for name in each.groups)
        name = f"{each.module}.{each.attribute}" if each.module else each.attribute
        text = f"{re.sub(r'[0-9]+', '*', name)} = {each.value} ({times}the channels of {groups})"
        exact = f"{name} = {each.value} ({times}the channels of {' and '.join(each.groups)})"
        found.setdefault(text, []).append(exact)
    return [
        lines[0] + (f" and {len(lines) - 1} more of this kind" if len(lines) > 1 else "") for lines in found.values()
    ]


def summary(analysis: Analysis, title: str) -> str:
    """A table of elastic groups and frozen channels."""
    elastic = analysis.elastic
    frozen = [group for group in analysis.groups if group.frozen]
    lines = [
        f"{title}: {len(elastic)} elastic channel groups, {len(frozen)} frozen, "
        f"{elastic_share(analysis):.1%} of the MACs elastic"
    ]
    width = max((len(group.name) for group in analysis.groups), default=5)
    width = min(max(width, 5), 48)
    lines.append(f"  {'group':<{width}}  channels  block  ratio  made by")
    for group in elastic:
        others = f" and {len(group.producers) - 1} more" if len(group.producers) > 1 else ""
        made = group.producers[0] + others if group.producers else ""
        lines.append(f"  {group.name:<{width}}  {group.channels:>8}  {group.block_size:>5}  {group.ratio:>5}  {made}")
    if frozen:
        lines.append("frozen:")
        lines += [f"  {group.name:<{width}}  {group.channels:>8}  {group.frozen}" for group in frozen]
    if analysis.coincidences:
        lines.append(
            "left alone: integers that equal a number of channels but need not follow it for the example inputs"
        )
        lines += [f"  {text}" for text in _coincidences(analysis)]
    if analysis.unknown:
        names = ", ".join(f"{name} ({count})" for name, count in analysis.unknown.items())
        lines.append(f"operators without a rule: {names}")
    uncounted = ", ".join(f"{name} ({count})" for name, count in analysis.uncounted.items() if adds_up(name))
    if uncounted:
        lines.append(f"not counted in the MACs, like element-wise operators: {uncounted}")
    return "\n".join(lines)
