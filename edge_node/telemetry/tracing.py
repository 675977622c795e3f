"""Spans, and where they go: to an OpenTelemetry collector, by OTLP over HTTP.

Owns the SDK, which is loaded only where `otlp_endpoint` is set (dedgeai[otel]). Nothing of it is
global, and nothing of a prompt becomes part of a span.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanKind

# A span waits at most so long for others, and at most so many wait: beyond, the newest are lost.
TOGETHER_S = 1.0
WAITING_MAX = 4096
# That a collector may take for one answer, and that the last spans of a node may take.
EXPORT_S_MAX = 5.0
CLOSE_S_MAX = 3.0
Attributes = Mapping[str, str | int | float | bool]


def open_tracing(config: NodeConfig) -> Tracing | None:
    """What spans are made with; None where they are not wanted.

    Raises:
        InvalidRequest: they are, and the extra is not installed.
    """
    if config.otlp_endpoint is None:
        return None
    needed = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    try:
        there = all(importlib.util.find_spec(one) is not None for one in needed)
    except ModuleNotFoundError:
        there = False
    if not there:
        raise InvalidRequest(
            "otlp_endpoint needs OpenTelemetry: install dedgeai[otel].", param="otlp_endpoint"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(
        endpoint=f"{config.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S_MAX
    )
    return Tracing(exporter, node_id=config.node_id, share=config.traces_share)


class Tracing:
    """Makes spans of one node.

    Args:
        exporter: takes them, in a thread of its own.
        node_id: this node.
        share: of the traces that begin here, 0..1; of those that a caller began it says itself.
    """

    def __init__(self, exporter: SpanExporter, *, node_id: str, share: float) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        version = importlib.metadata.version("dedgeai")
        about = {
            "service.name": "dedgeai",
            "service.version": version,
            "service.instance.id": node_id,
        }
        self._provider: TracerProvider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create(about),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=WAITING_MAX,
                schedule_delay_millis=TOGETHER_S * 1000,
                export_timeout_millis=EXPORT_S_MAX * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("dedgeai", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(
        self, name: str, *, parent: TraceContext, kind: SpanKind, attributes: Attributes
    ) -> Span:
        """A span that goes on; a new trace where there is no parent."""
        from opentelemetry.context import Context

        # An empty context, not the current one: what is current here is `trace_context.current`.
        context = self._propagator.extract(dict(parent.carrier), context=Context())
        span: Span = self._tracer.start_span(  # type: ignore[assignment]
            name, context=context, kind=kind, attributes=dict(attributes)
        )
        return span

    def context_of(self, span: Span) -> TraceContext:
        """What is told to whoever does a part of it."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=set_span_in_context(span))
        return TraceContext(
            parent=carrier.get("traceparent", ""), state=carrier.get("tracestate", "")
        )

    async def close(self) -> None:
        """Sends what waits, as far as the collector takes it in time."""
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await asyncio.to_thread(self._provider.force_flush, int(CLOSE_S_MAX * 1000))
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            pass  # a comment on what was done, and no reason to stay
