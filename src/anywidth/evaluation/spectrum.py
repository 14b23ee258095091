"""Spectrum: a score against cost over many widths of one supernet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anywidth.core.files import write_atomically
from anywidth.cost import macs, params
from anywidth.evaluation.evaluate import evaluate
from anywidth.evaluation.picture import draw
from anywidth.evaluation.quantity import quantity_of
from anywidth.evaluation.row import Row
from anywidth.evaluation.score import Score
from anywidth.supernet import Supernet
from anywidth.tasks import ACCURACY, MeasuredTask, Quantity
from anywidth.tasks.quantity import shortened
from anywidth.widths import Width, WidthConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Spectrum", "even_widths", "spectrum", "width_grid"]


class Spectrum(Sequence[Row]):
    """Rows of a spectrum, with methods to save and plot them.

    >>> curve = Spectrum([Row(width=0.5, macs=20, params=9, score=97.5)])
    >>> print(curve.csv(), end="")
    width,macs,params,accuracy
    0.5,20,9,97.5
    """

    def __init__(self, rows: Iterable[Row], name: str = "anywidth", quantity: Quantity = ACCURACY) -> None:
        self.rows = tuple(rows)
        self.name = name
        self.quantity = quantity

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def csv(self) -> str:
        """Rows as CSV text with the columns width, macs, params and the name of the score."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["width", "macs", "params", self.quantity.name])
        for row in self.rows:
            writer.writerow([row.width, row.macs, row.params, shortened(row.score)])
        return text.getvalue()

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows as CSV."""
        return write_atomically(Path(path), lambda temporary: temporary.write_text(self.csv()))

    def to_json(self, path: str | Path) -> Path:
        """Write the rows as JSON, with the name of the network and the quantity."""
        text = (
            json.dumps(
                {"name": self.name, "quantity": asdict(self.quantity), "rows": [asdict(row) for row in self.rows]},
                indent=2,
            )
            + "\n"
        )
        return write_atomically(Path(path), lambda temporary: temporary.write_text(text))

    @classmethod
    def from_json(cls, path: str | Path) -> Spectrum:
        """Read a file that `to_json` wrote."""
        content = json.loads(Path(path).read_text())
        return cls([Row(**row) for row in content["rows"]], content["name"], Quantity(**content["quantity"]))

    def plot(
        self, path: str | Path | None = None, *, others: Mapping[str, Spectrum] | None = None, title: str = ""
    ) -> Axes:
        """Plot the score against MACs, with other spectra for comparison.

        Args:
            path: File to write, in the format of its extension; None only returns the axes.
            others: Other spectra by legend name, drawn as points, such as networks trained alone.
            title: Title of the plot.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw(self.rows, path, name=self.name, quantity=self.quantity, others=others or {}, title=title)


def spectrum(
    net: Supernet,
    loader: Iterable[Any],
    widths: Sequence[Width] | Mapping[Any, Width] | int = 16,
    *,
    score: Score | None = None,
    task: MeasuredTask | None = None,
    name: str = "anywidth",
    progress: Callable[[Row], object] | None = None,
) -> Spectrum:
    """Score, MACs and parameters at many widths, in the given order; widths that round alike are one row.

    Args:
        net: The supernet, calibrated at these widths.
        loader: Batches of (inputs, targets), iterated once per width.
        widths: Widths or configs. A number selects that many evenly spaced widths from `min_width` to 1, or all
            switches of a network that has switches. A map assigns names to the rows.
        score: As in `evaluate`; by default top-1 accuracy in percent.
        task: As in `evaluate`.
        name: Name of the spectrum in files and legends.
        progress: Called with each finished row.

    Raises:
        LossError: the score does not fit, as in `evaluate`.
        UncalibratedError: a width has no up-to-date batch-norm statistics.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> curve = spectrum(net, [(torch.randn(8, 4), torch.zeros(8).long())], [0.5, 1.0])
    >>> [(row.width, row.macs) for row in curve]
    [(0.5, 48), (1.0, 96)]
    """
    if isinstance(widths, Mapping):
        named: list[tuple[float | str, Width]] = list(widths.items())
    else:
        chosen = even_widths(net, widths) if isinstance(widths, int) else widths
        distinct: dict[WidthConfig, Width] = {}
        for width in chosen:
            distinct.setdefault(net.config(width), width)
        named = [(float(w) if isinstance(w, (int, float)) else str(c), w) for c, w in distinct.items()]
    quantity = quantity_of(score, task)
    rows = []
    for name_of_row, width in named:
        row = Row(
            width=name_of_row,
            macs=macs(net, width),
            params=params(net, width),
            score=evaluate(net, loader, width, score=score, task=task),
        )
        rows.append(row)
        if progress is not None:
            progress(row)
    return Spectrum(rows, name, quantity)


def even_widths(net: Supernet, count: int) -> list[float]:
    """Evenly spaced widths of a supernet from the narrowest to 1, or all that it has if they are fixed."""
    return list(net.widths) or width_grid(net.min_width, count)


def width_grid(min_width: float, count: int) -> list[float]:
    """Evenly spaced widths from the narrowest to 1.

    >>> width_grid(0.25, 4)
    [0.25, 0.5, 0.75, 1.0]
    """
    if count < 2:
        return [1.0]
    return [round(min_width + (1 - min_width) * i / (count - 1), 6) for i in range(count)]
