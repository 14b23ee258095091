"""Batch-norm statistics of every width."""

from anywidth.batchnorm.post_statistics import calibrate, share_statistics

__all__ = ["calibrate", "share_statistics"]
