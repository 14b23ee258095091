"""The table and the verdicts of an experiment, as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anywidth.core.files import write_atomically
from anywidth.reproduce.experiment import Experiment
from anywidth.reproduce.runner import Record

__all__ = ["images_of", "page", "update_page"]

_START, _END = "<!-- measured: written by anywidth reproduce -->", "<!-- end of measured -->"


def page(experiment: Experiment, record: Record) -> str:
    """Settings, a table of mean ± spread by arm, and the verdict on every claim."""
    return "\n\n".join((_settings(record), _table(experiment, record), _claims(experiment, record))) + "\n"


def update_page(path: Path, text: str, *, start: str = _START) -> bool:
    """Put the measured part between the two marks of a page; False if the page or its marks do not exist.

    Args:
        path: The page.
        text: The measured part.
        start: The first mark; the second is the same everywhere.
    """
    if not path.exists():
        return False
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(_END)}", re.DOTALL)
    before = path.read_text()
    if not pattern.search(before):
        return False
    after = pattern.sub(lambda _: f"{start}\n\n{text}\n{_END}", before)
    write_atomically(path, lambda temporary: temporary.write_text(after))
    return True


def images_of(setup: Mapping[str, Any]) -> str:
    """The dataset, with the size of the images and their number where the settings name them.

    >>> images_of({"data": "cifar100", "image_size": 16, "train_images": 5000})
    'cifar100 at 16x16 pixels, 5,000 training images'
    """
    size = f" at {setup['image_size']}x{setup['image_size']} pixels" if setup["image_size"] else ""
    number = f", {setup['train_images']:,} training images" if setup["train_images"] else ""
    return f"{setup['data']}{size}{number}"


def _settings(record: Record) -> str:
    setup, about, seeds = record.setup, record.about, len(record.results.seeds)
    return (
        f"Data {images_of(setup)}, model `{setup['model']}`, {setup['epochs']} epochs, {seeds} seeds "
        f"(mean ± standard deviation). anywidth {about['anywidth']}, PyTorch {about['torch']}, {about['day']}; "
        f"{record.seconds:.0f} s of processor time "
        f"(parallel jobs: {about['processes']}, cores: {about['cores']}, {about['machine']})."
    )


def _table(experiment: Experiment, record: Record) -> str:
    results = record.results
    measured = list(dict.fromkeys(x for arm in experiment.shown(results) for x in results.xs(arm)))
    columns = list(experiment.columns) or measured
    if not set(columns) <= set(measured):  # another model may have a different narrowest width
        columns = [measured[round(i * (len(measured) - 1) / 3)] for i in range(4)]
    heads = [_number(x) for x in columns]
    several = experiment.average and any(len(results.xs(arm)) > 1 for arm in experiment.shown(results))
    lines = [
        "| " + " | ".join([f"{experiment.y}, by {experiment.x}", *heads, *(["mean"] if several else [])]) + " |",
        "|---" * (1 + len(heads) + several) + "|",
    ]
    for arm in experiment.shown(results):
        known = results.xs(arm)
        cells = [
            _cell(results.mean(arm, x), results.spread(arm, x), experiment.digits) if x in known else ""
            for x in columns
        ]
        if several:
            whole = len(known) > 1
            cells += [_cell(results.mean(arm), results.spread(arm), experiment.digits) if whole else ""]
        lines.append(f"| {arm.replace('|', ':')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _claims(experiment: Experiment, record: Record) -> str:
    lines = [
        "| claim | source | holds if the difference is | measured difference, with 95% confidence interval | verdict |",
        "|---|---|---|---|---|",
    ]
    for claim in experiment.claims:
        verdict = claim.judge(record.results)
        found = verdict.difference
        margin = "" if math.isnan(found.margin) else f" ± {found.margin:.{experiment.digits + 1}f}"
        says = f"{found.mean:+.{experiment.digits + 1}f}{margin}"
        lines.append(f"| {claim.text} | {claim.source} | above {claim.above:g} | {says} | **{verdict.says}** |")
    return "\n".join(lines)


def _number(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:g}"


def _cell(mean: float, spread: float, digits: int) -> str:
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"
