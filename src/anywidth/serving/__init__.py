"""Several widths of one network, ready to answer, and the governor that chooses among them."""

from anywidth.serving.arrival_rate import ArrivalRate
from anywidth.serving.drift import Drift
from anywidth.serving.governor import Decision, Governor, GovernorSettings, Waiting
from anywidth.serving.ladder import Ladder, TensorSpec
from anywidth.serving.service_times import ServiceTimes, batch_sizes, measure

__all__ = [
    "ArrivalRate",
    "Decision",
    "Drift",
    "Governor",
    "GovernorSettings",
    "Ladder",
    "ServiceTimes",
    "TensorSpec",
    "Waiting",
    "batch_sizes",
    "measure",
]
