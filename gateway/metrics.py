"""Prometheus metrics of the gateway."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_FAST_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_SLOW_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics, on a registry of their own.

    Parameters
    ----------
    registry : CollectorRegistry
        Where they are registered.
    shared_dir : str or None
        Folder that the workers of one gateway share (``PROMETHEUS_MULTIPROC_DIR``, which must have
        been set when prometheus_client was imported); None for a single process.
    """

    def __init__(self, registry: CollectorRegistry, shared_dir: str | None = None) -> None:
        self._registry = registry
        self._shared_dir = shared_dir
        self.requests = Counter(
            "coe_requests",
            "Requests by where they went and how they ended.",
            ["expert", "category", "reason", "outcome"],
            registry=registry,
        )
        self.tokens = Counter(
            "coe_tokens", "Tokens by expert and kind.", ["expert", "kind"], registry=registry
        )
        self.active_params_b = Counter(
            "coe_active_params_b",
            "Sum over requests of the 10^9 parameters used, the router's included.",
            ["expert"],
            registry=registry,
        )
        self.resident_params_b = Gauge(
            "coe_resident_params_b",
            "10^9 parameters of the distinct weights behind the registry.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.choices = Counter(
            "coe_choices", "Routing choices by cache result.", ["cache"], registry=registry
        )
        self.cache_errors = Counter(
            "coe_cache_errors", "Failures of the cache, survived.", ["operation"], registry=registry
        )
        self.router_failures = Counter(
            "coe_router_failures",
            "Routers that did not answer; the next one did.",
            ["router"],
            registry=registry,
        )
        self.expert_failures = Counter(
            "coe_expert_failures",
            "Failed calls of an expert.",
            ["expert", "code"],
            registry=registry,
        )
        self.ledger_errors = Counter(
            "coe_ledger_errors", "Failures to store the ledger, survived.", registry=registry
        )
        self.classify_seconds = Histogram(
            "coe_classify_seconds", "Time to classify a text.", buckets=_FAST_S, registry=registry
        )
        self.first_byte_seconds = Histogram(
            "coe_first_byte_seconds",
            "From the request's arrival to the first byte of its answer.",
            ["expert"],
            buckets=_SLOW_S,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "coe_request_seconds",
            "From the request's arrival to the last byte of its answer.",
            ["expert"],
            buckets=_SLOW_S,
            registry=registry,
        )

    def render(self) -> bytes:
        """Return the metrics of all workers in the Prometheus text format."""
        if self._shared_dir is None:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, path=self._shared_dir)  # type: ignore[no-untyped-call]
        return generate_latest(merged)
