"""Search methods, one file each."""

from anywidth.search.methods.registry import METHODS, Outcome, Progress, SearchMethod

__all__ = ["METHODS", "Outcome", "Progress", "SearchMethod"]
