"""Prometheus metrics of the gateway."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_FAST_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_SLOW_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class GroupCounters:
    """What requests of known size cost: `by` is total, expert, category, tenant or preset.

    A request is in five groups: what they count is summed up here, and goes to the registry, where
    each number costs as much as all of these together, with `flush`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, labelnames=("by", "name"), registry=registry)
        self._counters = (
            counter("coe_group_requests", "Requests of known size."),
            counter("coe_group_completion_tokens", "Their completion tokens."),
            counter(
                "coe_group_active_params_b",
                "Sum over requests of the 10^9 parameters used per token, the router's included.",
            ),
            counter(
                "coe_group_active_params_b_tokens",
                "Sum over completion tokens of the 10^9 parameters used, the router's included.",
            ),
        )
        self._waiting: dict[tuple[str, str], list[float]] = {}

    def add(self, by: str, name: str, active_params_b: float, completion_tokens: int) -> None:
        """Count one request."""
        sums = self._waiting.setdefault((by, name), [0.0, 0.0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += completion_tokens
        sums[2] += active_params_b
        sums[3] += active_params_b * completion_tokens

    def flush(self) -> None:
        """Show what was counted since the last time."""
        waiting, self._waiting = self._waiting, {}
        for group, sums in waiting.items():
            for counter, amount in zip(self._counters, sums, strict=True):
                counter.labels(*group).inc(amount)


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
        self._add_gauges()
        counter = partial(Counter, registry=registry)
        seconds = partial(Histogram, registry=registry)
        self.requests = counter(
            "coe_requests",
            "Requests by where they went and how they ended.",
            ["expert", "category", "reason", "outcome"],
        )
        self.tokens = counter("coe_tokens", "Tokens by expert and kind.", ["expert", "kind"])
        self.groups = GroupCounters(registry)
        self.choices = counter("coe_choices", "Routing choices by cache result.", ["cache"])
        self.cache_errors = counter(
            "coe_cache_errors", "Failures of the cache, survived.", ["operation"]
        )
        self.router_failures = counter(
            "coe_router_failures", "Routers that did not answer; the next one did.", ["router"]
        )
        self.expert_failures = counter(
            "coe_expert_failures", "Failed calls of an expert.", ["expert", "code"]
        )
        self.ledger_errors = counter("coe_ledger_errors", "Failures to store the ledger, survived.")
        self.classify_seconds = seconds(
            "coe_classify_seconds", "Time to classify a text.", buckets=_FAST_S
        )
        self.first_byte_seconds = seconds(
            "coe_first_byte_seconds",
            "From the request's arrival to the first byte of its answer.",
            ["expert"],
            buckets=_SLOW_S,
        )
        self.request_seconds = seconds(
            "coe_request_seconds",
            "From the request's arrival to the last byte of its answer.",
            ["expert"],
            buckets=_SLOW_S,
        )

    def _add_gauges(self) -> None:
        gauge = partial(Gauge, registry=self._registry, multiprocess_mode="mostrecent")
        self.best_single_params_b = gauge(
            "coe_best_single_active_params_b",
            "10^9 active parameters of the best single expert; NaN when they are not known.",
        )
        self.resident_params_b = gauge(
            "coe_resident_params_b",
            "10^9 parameters of the distinct weights behind the registry.",
        )
        self.config_version = gauge(
            "coe_config_version",
            "Version of the experts file that is served.",
        )
        self.config_errors = gauge(
            "coe_config_errors",
            "Edits of the experts that were refused since the gateway started.",
        )

    def render(self) -> bytes:
        """Return the metrics of all workers in the Prometheus text format.

        Other workers show their groups every two seconds, with `Ledger.store`.
        """
        self.groups.flush()
        if self._shared_dir is None:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, path=self._shared_dir)  # type: ignore[no-untyped-call]
        return generate_latest(merged)
