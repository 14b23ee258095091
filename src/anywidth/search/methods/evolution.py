"""Evolutionary search by NSGA-II with accuracy and cost as objectives, so that one population serves all budgets.

Source: NSGA-II, Deb et al. 2002 (doi 10.1109/4235.996017).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from anywidth.search.methods.registry import METHODS, SearchMethod
from anywidth.search.sampled import sampled_search

__all__ = ["EVOLUTION"]

_POPULATION = 24


def _sampler(samplers: Any, seed: int) -> Any:
    return samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)


EVOLUTION = METHODS.add(SearchMethod(name="evolution", run=partial(sampled_search, name="evolution", sampler=_sampler)))
