"""What the service counts of itself, for Prometheus: requests, seconds, batches, swaps; never a customer, item or text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WIDTHS = (1, 2, 4, 8, 16, 24)


class Counters:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("fugou_requests", "Requests answered.", ("path", "status"), registry=self.registry)
        self.seconds = Histogram(
            "fugou_request_seconds", "Seconds to an answer.", ("path",), buckets=SECONDS, registry=self.registry
        )
        self.busy = Gauge("fugou_requests_in_progress", "Requests being answered.", registry=self.registry)
        self.width = Histogram("fugou_batch_drafts", "Drafts in a batch.", buckets=WIDTHS, registry=self.registry)
        self.swaps = Counter("fugou_model_swaps", "Desks that took another's place.", registry=self.registry)
        self.handed_over = Counter("fugou_replies_handed_over", "Questions given to a person.", registry=self.registry)

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self.registry)
