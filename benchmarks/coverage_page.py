"""The coverage page of the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["write_page"]

Rows = Sequence[Mapping[str, str]]


def write_page(rows: Rows, path: Path, *, jobs: int) -> Path:
    """Write the table of `coverage.py` and its totals to a page; `jobs` models ran at a time."""
    good = [row for row in rows if row["status"] == "ok"]
    bad = [row for row in rows if row["status"] != "ok"]
    lines = [
        "# Coverage",
        "",
        "The elastic share of each model, with new weights and default settings (widths from 0.25, channels in",
        "multiples of 8). For each model, we proved the channel groups numerically on example inputs. We also checked",
        "that the narrowest and random nonuniform subnets run forward and backward, and that the extracted networks",
        "have the counted number of parameters. Written by `uv run python benchmarks/coverage.py`; the table as CSV",
        "is in `benchmarks/results/coverage.csv`.",
        "",
        f"- **{len(good)} of {len(rows)}** models build and run at every width tried.",
    ]
    if good:
        shares = [float(row["elastic_macs"]) for row in good]
        halves = [float(row["params_half"]) for row in good]
        seconds = [float(row["seconds"]) for row in good]
        most = sum(share >= 0.9 for share in shares)
        together = f" ({jobs} models in parallel)" if jobs > 1 else ""
        lines += [
            f"- At least 90% of the MACs are elastic in **{most}** of them ({most / len(good):.0%}).",
            f"- Median parameters at width 0.5: **{statistics.median(halves):.2f}** of the full network.",
            f"- Analysis time per model{together}: median {statistics.median(seconds):.1f} s, longest "
            f"{max(seconds):.0f} s.",
        ]
    lines += ["", *_table(good)]
    if bad:
        lines += ["", "## Models that fail", "", "| model | error |", "|---|---|"]
        lines += [f"| {row['model']} | {row['status'].replace('|', '/')} |" for row in bad]
    path.write_text("\n".join(lines) + "\n")
    return path


def _table(rows: Rows) -> Iterable[str]:
    yield "| model | family | M params | elastic MACs | params at 0.5 | at 0.25 | s | frozen channels and reasons |"
    yield "|---|---|--:|--:|--:|--:|--:|---|"
    for row in rows:
        yield (
            f"| {row['model']} | {row['family']} | {float(row['mparams']):.1f} | {float(row['elastic_macs']):.0%} "
            f"| {float(row['params_half']):.2f} | {float(row['params_min']):.2f} | {float(row['seconds']):.1f} "
            f"| {row['reasons'].replace('|', '/')} |"
        )
