"""Serving: several widths of one network, the governor that chooses among them, and an HTTP server."""

from anywidth.serving.arrival_rate import ArrivalRate
from anywidth.serving.batcher import Answer, Batcher
from anywidth.serving.drift import Drift
from anywidth.serving.governor import Governor
from anywidth.serving.governor_settings import GovernorSettings
from anywidth.serving.images import ImageReader
from anywidth.serving.ladder import Ladder, TensorSpec
from anywidth.serving.limits import Limits
from anywidth.serving.memory import kept_memory
from anywidth.serving.queue_records import Decision, Waiting
from anywidth.serving.refusal import Refusal
from anywidth.serving.served import Point, Served, measure_ladder
from anywidth.serving.service_times import ServiceTimes, batch_sizes, measure

__all__ = [
    "Answer",
    "ArrivalRate",
    "Batcher",
    "Decision",
    "Drift",
    "Governor",
    "GovernorSettings",
    "ImageReader",
    "Ladder",
    "Limits",
    "Point",
    "Refusal",
    "Served",
    "ServiceTimes",
    "TensorSpec",
    "Waiting",
    "batch_sizes",
    "kept_memory",
    "measure",
    "measure_ladder",
]
