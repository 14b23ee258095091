"""Random search: the size of every group is drawn uniformly."""

from __future__ import annotations

from functools import partial
from typing import Any

from anywidth.search.methods.registry import METHODS, SearchMethod
from anywidth.search.sampled import sampled_search

__all__ = ["RANDOM"]


def _sampler(samplers: Any, seed: int) -> Any:
    return samplers.RandomSampler(seed=seed)


RANDOM = METHODS.add(SearchMethod(name="random", run=partial(sampled_search, name="random", sampler=_sampler)))
