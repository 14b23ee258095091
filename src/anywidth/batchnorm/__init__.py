"""Computes the batch-norm statistics of every width; `anywidth.supernet.statistics` stores them."""

from anywidth.batchnorm.post_statistics import calibrate, share_statistics

__all__ = ["calibrate", "share_statistics"]
