"""GET /metrics: what the engines have written and have to write, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from bardlet.serve.engine import BUCKETS_S
from bardlet.serve.engines import Engines


class OfEngines(Collector):
    """The counts of all engines together, read when they are asked for."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        engines = self.engines.all()
        stats = sum((engine.stats for engine in engines), self.engines.past)
        loads = [engine.load for engine in engines]
        for name, value, text in (
            ("running", sum(running for running, _ in loads), "Texts that are written"),
            ("waiting", sum(waiting for _, waiting in loads), "Texts that wait for their turn"),
            ("models_loaded", len(self.engines.loaded), "Models in memory"),
        ):
            yield GaugeMetricFamily(f"bardlet_{name}", text, value)
        for name, value, text in (
            ("texts", stats.texts, "Texts that were begun"),
            ("prompt_tokens", stats.prompt_tokens, "Tokens of their prompts"),
            ("generated_tokens", stats.tokens, "Tokens that were written"),
            ("failures", stats.failures, "Errors that ended an engine's texts"),
        ):
            yield CounterMetricFamily(f"bardlet_{name}", text, value)
        sums = [sum(stats.delays[: i + 1]) for i in range(len(stats.delays))]
        buckets = list(zip([*map(str, BUCKETS_S), "+Inf"], sums, strict=True))
        yield HistogramMetricFamily(
            "bardlet_first_token_seconds", "From a request to its first token", buckets,
            stats.delays_s,
        )  # fmt: skip


def router(engines: Engines) -> APIRouter:
    """The route."""
    routes, registry = APIRouter(), CollectorRegistry()
    registry.register(OfEngines(engines))

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return routes
