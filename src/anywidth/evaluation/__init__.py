"""Scores of widths, and the spectrum of accuracy against cost."""

from anywidth.evaluation.evaluate import Score, evaluate, top1
from anywidth.evaluation.spectrum import Row, Spectrum, even_widths, spectrum, width_grid

__all__ = ["Row", "Score", "Spectrum", "evaluate", "even_widths", "spectrum", "top1", "width_grid"]
