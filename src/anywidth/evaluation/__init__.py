"""Scores by width, and the spectrum of a score against cost."""

from anywidth.evaluation.evaluate import evaluate
from anywidth.evaluation.exit_curve import exit_curve
from anywidth.evaluation.measure import measure
from anywidth.evaluation.row import Row
from anywidth.evaluation.score import Score, score_samples, top1
from anywidth.evaluation.spectrum import Spectrum, even_widths, spectrum, width_grid
from anywidth.evaluation.stages import stages, widths_by_stage

__all__ = [
    "Row",
    "Score",
    "Spectrum",
    "evaluate",
    "even_widths",
    "exit_curve",
    "measure",
    "score_samples",
    "spectrum",
    "stages",
    "top1",
    "width_grid",
    "widths_by_stage",
]
