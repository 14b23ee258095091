"""Inputs of other sizes, with which integers that the example does not depend on show what they count."""

from __future__ import annotations

from torch import nn

from anywidth.groups.analysis import Analysis
from anywidth.groups.prover import Prover
from anywidth.groups.trace import Inputs


def try_other_inputs(model: nn.Module, analysis: Analysis, prover: Prover, inputs: Inputs) -> Analysis:
    return analysis
