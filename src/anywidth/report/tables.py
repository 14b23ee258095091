"""Tables of widths for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from anywidth.report.numbers import count

if TYPE_CHECKING:
    from anywidth.evaluation import Spectrum
    from anywidth.search import SearchResult

__all__ = ["cost_table", "files_table", "search_table", "spectrum_table"]


def spectrum_table(curve: Spectrum, alone: Spectrum | None = None) -> Table:
    """Width, MACs, parameters and score; with a column for networks trained alone, if there are any."""
    table = _table("width", "MACs", "parameters", curve.quantity.name)
    reference = {row.width: row.score for row in alone or ()}
    if reference:
        table.add_column("trained alone", justify="right")
    for row in curve:
        name = row.width if isinstance(row.width, str) else f"{row.width:g}"
        cells = [name, count(row.macs), count(row.params), curve.quantity.text(row.score)]
        if reference:
            cells.append(curve.quantity.text(reference[row.width]) if row.width in reference else "")
        table.add_row(*cells)
    return table


def cost_table(rows: Sequence[tuple[float, int, int]]) -> Table:
    """Width, MACs and parameters, with their share of the last row, which is the full network."""
    table = _table("width", "MACs", "of full", "parameters", "of full")
    *_, (_, full_macs, full_params) = rows
    for width, macs, params in rows:
        share, weight = macs / max(full_macs, 1), params / max(full_params, 1)
        table.add_row(f"{width:g}", count(macs), f"{share:.1%}", count(params), f"{weight:.1%}")
    return table


def files_table(rows: Sequence[tuple[str, str, int, int, int, float | None]]) -> Table:
    """Width, precision, MACs, parameters, bytes of the file and accuracy (None if it was not measured)."""
    table = _table("width", "precision", "MACs", "parameters", "file", "accuracy")
    for width, precision, macs, params, size, accuracy in rows:
        found = "not measured" if accuracy is None else f"{accuracy:.2f} %"
        table.add_row(width, precision, count(macs), count(params), f"{count(size)}B", found)
    return table


def search_table(result: SearchResult, uniform: Sequence[tuple[float, float]]) -> Table:
    """Budget, cost and held-out score of found networks, and of uniform ones (cost, score) of similar cost."""
    name = result.quantity.name
    unit = f" ({result.unit})" if result.unit else ""
    table = _table("budget", f"cost{unit}", name, f"uniform cost{unit}", name)
    for item, (cost, score) in zip(result.found, uniform, strict=True):
        found = item.network
        cells = count(found.cost), result.quantity.text(found.score), count(cost), result.quantity.text(score)
        table.add_row(str(item.budget), *cells)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table
