"""Several widths of one network, ready to answer."""

from anywidth.serving.ladder import Ladder, TensorSpec

__all__ = ["Ladder", "TensorSpec"]
