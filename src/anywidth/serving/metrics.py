"""Metrics of a server, for Prometheus."""

from __future__ import annotations

from typing import Any

from anywidth.core.extras import from_extra
from anywidth.serving.queue_records import Decision

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counters of one server, in a separate registry.

    >>> metrics = Metrics()
    >>> metrics.refused.labels("full").inc()
    >>> b'anywidth_refused_total{reason="full"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        with from_extra("serve", "a server's metrics need prometheus-client"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        shared: dict[str, Any] = {"registry": self.registry}
        self.latency = Histogram(
            "anywidth_request_seconds", "Time from arrival to answer", ["width"], buckets=_SECONDS, **shared
        )
        self.batches = Histogram(
            "anywidth_batch_rows", "Rows per batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **shared
        )
        self.compute = Histogram("anywidth_batch_seconds", "Seconds per batch", ["width"], buckets=_SECONDS, **shared)
        self.width = Gauge("anywidth_width", "Width of the last batch", **shared)
        self.drift = Gauge("anywidth_drift", "Measured over expected time of batches", **shared)
        self.rate = Gauge("anywidth_arrival_rate", "Rows that arrive per second", **shared)
        self.queue = Gauge("anywidth_queue_requests", "Waiting requests", **shared)
        self.refused = Counter("anywidth_refused", "Refused requests", ["reason"], **shared)
        self.decisions = Counter("anywidth_decisions", "Batches by the reason for their width", ["reason"], **shared)

    def batch(self, decision: Decision, seconds: float) -> None:
        """Record a batch."""
        self.width.set(decision.width)
        self.drift.set(decision.drift)
        self.rate.set(decision.rate)
        self.batches.observe(decision.rows)
        self.compute.labels(f"{decision.width:g}").observe(seconds)
        self.decisions.labels(decision.reason).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
