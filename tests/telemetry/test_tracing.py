"""Where spans go, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.telemetry.tracing import Tracing, open_tracing
from edge_node.trace_context import NO_TRACE


class Stuck(SpanExporter):
    """A collector that does not answer."""

    def export(self, spans: Any) -> SpanExportResult:
        time.sleep(8.0)
        return SpanExportResult.FAILURE


def test_a_collector_that_hangs_holds_no_node_up() -> None:
    async def story() -> float:
        tracing = Tracing(Stuck(), node_id="orin-a", share=1.0)
        tracing.begin("x", parent=NO_TRACE, kind=SpanKind.SERVER, attributes={}).end()
        began_s = time.monotonic()
        await tracing.close()
        return time.monotonic() - began_s

    assert _within(story) < 5.0


def _within(story: Any) -> float:
    loop = asyncio.new_event_loop()
    try:
        seconds: float = loop.run_until_complete(story())
    finally:
        loop.close()
    return seconds


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracing(NodeConfig()) is None

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(InvalidRequest, match=r"install dedgeai\[otel\]"):
        open_tracing(NodeConfig(otlp_endpoint="http://127.0.0.1:4318"))
