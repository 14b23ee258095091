"""The coverage page of the documentation."""

from __future__ import annotations

import re
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
        "How much of each model can be narrowed, with new weights and default settings (widths from 0.25, channels in",
        "multiples of 8). For each model, anywidth computed the channel groups and tested them numerically on example",
        "inputs. The benchmark then ran the narrowest, a half-width and two random nonuniform subnets forward and",
        "backward, and checked that the extracted networks have the counted number of parameters.",
        "",
        "`uv run python benchmarks/coverage.py` writes this page. The table is also in",
        "`benchmarks/results/coverage.csv`. *Elastic MACs* is the share of the MACs that shrink with the width.",
        "*Params at 0.5* and *at 0.25* are the parameters at these widths, as a share of all parameters. *s* is the",
        "time of the analysis in seconds. The number after a reason counts the frozen groups. At most four reasons are",
        "listed. Outputs always stay whole and are not listed.",
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
            f"| {row['model']} | {row['family']} | {float(row['mparams']):.1f} | {_share(float(row['elastic_macs']))} "
            f"| {float(row['params_half']):.2f} | {float(row['params_min']):.2f} | {float(row['seconds']):.1f} "
            f"| {_balanced(row['reasons']).replace('|', '/')} |"
        )


def _share(share: float) -> str:
    """A share in percent, which is not rounded up to all."""
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _balanced(reasons: str) -> str:
    """Reasons with their parentheses closed, which stay open where an error message was cut."""
    return "; ".join(re.sub(r"(\([^()]*) \((\d+)\)$", r"\1) (\2)", reason) for reason in reasons.split("; "))
