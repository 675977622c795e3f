"""A collector of OpenTelemetry's spans, on a real port: OTLP over HTTP, in protobuf."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A span as it came."""

    node: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def failed(self) -> bool:
        return self.span.status.code == Status.STATUS_CODE_ERROR

    @property
    def attributes(self) -> dict[str, str | int | float | bool]:
        return {one.key: _value(one) for one in self.span.attributes}


def _value(pair: KeyValue) -> str | int | float | bool:
    value: str | int | float | bool = getattr(pair.value, str(pair.value.WhichOneof("value")))
    return value


@dataclass(kw_only=True)
class Collector:
    """What came, as spans and as bytes."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, body: bytes) -> None:
        self.content += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {one.key: _value(one) for one in resource.resource.attributes}
            node = str(about["service.instance.id"])
            for scope in resource.scope_spans:
                self.spans += [Seen(node=node, span=span) for span in scope.spans]
        self._came.set()

    async def until(self, enough: Callable[[list[Seen]], bool], *, within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while not enough(self.spans):
                await self._came.wait()
                self._came.clear()


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Listens until its end."""
    collected = Collector()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                body = await reader.readexactly(length)
                assert head.startswith("post /v1/traces ")
                packed = "content-encoding: gzip" in head
                collected.take(gzip.decompress(body) if packed else body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the node has ended
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    collected.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield collected
    finally:
        server.close()
