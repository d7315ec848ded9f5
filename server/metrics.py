"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = tuple(4**power for power in range(8))


class Metrics:
    """The metrics of a server; each has the label `model`."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        by_model = {"labelnames": ["model"], "registry": self.registry}
        self.requests = Counter(
            "seqblend_requests", "Requests by status.", labelnames=["model", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "seqblend_request_seconds", "From the request to the end of its answer.", buckets=SECONDS, **by_model
        )
        self.batch_rows = Histogram("seqblend_batch_rows", "Rows read together.", buckets=SIZES, **by_model)
        self.batch_tokens = Histogram(
            "seqblend_batch_tokens", "Tokens of the texts that are read together.", buckets=SIZES, **by_model
        )
        self.cut_rows = Counter("seqblend_cut_rows", "Rows that were too long, and were cut.", **by_model)
        self.waiting = Gauge("seqblend_rows_in_progress", "Rows that wait or are computed.", **by_model)

    def page(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
