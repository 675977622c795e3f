"""Which connections the REST listener keeps, and for how long one may keep it waiting.

Owns the bounds on connections, in all and from one address, and on the time that a request takes to
arrive. Who has nothing under way makes room for who comes; what a request says is not read here.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from edge_node.config import NodeConfig

# Files that the rest of the node has open or may need at once: store, worker, images, and peers
# (256 connections, peering/server.py).
FILES_BESIDE = 400
# How often waiting connections are looked through.
SWEEP_S = 1.0
# For which one that has just connected when the listener ends may still send its request.
NEWCOMER_S = 1.0
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
)
_BUSY_SAID = (
    "This node holds as many connections as it may, all of them in use. Come back after the time "
    "in Retry-After, or ask another node."
)
_BUSY_BODY = json.dumps(
    {
        "error": {
            "message": _BUSY_SAID,
            "type": "server_error",
            "param": None,
            "code": "too_many_connections",
        }
    }
).encode()


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Bounds of connections.

    Attributes:
        connections_max: open at once.
        per_address_max: of them from one address.
        header_s_max: from a connection's first moment, or the first byte of a later request, to the
            end of a request's headers.
        body_s_max: from there to the end of its body, whatever it is; less is asked of bodies
            without an image, in words (see request_body.py).
        reading_s_max: that a client may leave an answer unread.
    """

    connections_max: int
    per_address_max: int
    header_s_max: float
    body_s_max: float
    reading_s_max: float = 60.0

    @classmethod
    def of(cls, config: NodeConfig) -> ConnectionLimits:
        """From the node's settings, and what the system lets it open."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls(
            connections_max=min(config.connections_max, max(files - FILES_BESIDE, files // 2)),
            per_address_max=config.connections_per_address_max,
            header_s_max=config.request_header_s_max,
            body_s_max=max(config.request_body_s_max, config.init_image_upload_s_max) + SWEEP_S,
        )


def raise_file_limit() -> None:
    """Lets this process open as many files as its hard limit says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Connections:
    """All connections of one listener.

    Args:
        limits: bounds; others count from the next look on.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.refused = 0
        # In the order in which they began to wait for a request; those in use are not among them.
        self._idle: dict[BoundedHttp, None] = {}
        self._open: dict[BoundedHttp, None] = {}
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def let_in(self, connection: BoundedHttp) -> bool:
        """Counts a new connection; False when it cannot be kept, and nobody can go for it."""
        limits, address = self.limits, connection.address
        if self._by_address[address] >= limits.per_address_max:
            if not self._close_idle_of(address):
                return self._refuse()
        elif len(self._open) >= limits.connections_max and not self._close_longest_idle():
            return self._refuse()
        self._open[connection] = None
        self._by_address[address] += 1
        self._idle[connection] = None
        return True

    def left(self, connection: BoundedHttp) -> None:
        """It is closed, or as good as."""
        self._idle.pop(connection, None)
        if connection in self._open:
            del self._open[connection]
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def in_use(self, connection: BoundedHttp) -> None:
        """A request of it is complete and has no answer yet."""
        self._idle.pop(connection, None)

    def idle(self, connection: BoundedHttp) -> None:
        """It has had its answer."""
        if connection in self._open:
            self._idle[connection] = None

    async def sweep(self) -> None:
        """Closes what keeps the listener waiting, until it is cancelled."""
        now_s = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP_S)
            for connection in tuple(self._open):
                if connection.is_late(now_s(), self.limits):
                    connection.drop()

    def _refuse(self) -> bool:
        self.refused += 1
        return False

    def _close_longest_idle(self) -> bool:
        for connection in self._idle:
            connection.drop()
            return True
        return False

    def _close_idle_of(self, address: str) -> bool:
        for connection in self._idle:
            if connection.address == address:
                connection.drop()
                return True
        return False


class BoundedHttp(HttpToolsProtocol):
    """One connection; says in which state it is, and since when.

    Attributes:
        address: of the client.
    """

    def __init__(self, *arguments: Any, among: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._among = among
        self.address = ""
        # Since when it owes us the rest of a request's headers, or of its body, or is to read.
        self._headers_since_s: float | None = None
        self._body_since_s: float | None = None
        self._unread_since_s: float | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; it is kept if there is room."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._headers_since_s = self.loop.time()
        if not self._among.let_in(self):
            transport.write(_BUSY % (len(_BUSY_BODY), _BUSY_BODY))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._among.left(self)
        self._end_answer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Any byte that is of no body begins a request, if only an empty line."""
        if self._headers_since_s is None and self._body_since_s is None:
            self._headers_since_s = self.loop.time()
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins behind another one in what was read at once."""
        if self._headers_since_s is None:
            self._headers_since_s = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are read, and it is being answered."""
        self._headers_since_s = None
        self._body_since_s = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """It is here whole."""
        self._body_since_s = None
        if not self.cycle.response_complete:
            self._among.in_use(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Its answer is out."""
        if self._headers_since_s is not None:
            self._headers_since_s = self.loop.time()  # while it answered, it may not have read
        if self._body_since_s is None and not self.pipeline:
            self._among.idle(self)
        super().on_response_complete()

    def shutdown(self) -> None:
        """The listener ends: what is new may say first what it came for."""
        if self.cycle is None:
            self.loop.call_later(NEWCOMER_S, super().shutdown)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        self._unread_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads on."""
        self._unread_since_s = None
        super().resume_writing()

    def is_late(self, now_s: float, limits: ConnectionLimits) -> bool:
        """Whether it has kept the listener waiting for longer than any may."""
        answering = self.cycle is not None and not self.cycle.response_complete
        waits = (
            (None if answering else self._headers_since_s, limits.header_s_max),
            (self._body_since_s, limits.body_s_max),
            (self._unread_since_s, limits.reading_s_max),
        )
        return any(since_s is not None and now_s - since_s > s_max for since_s, s_max in waits)

    def drop(self) -> None:
        """Closes it at once, whatever it was about to say."""
        self._among.left(self)
        self._end_answer()
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _end_answer(self) -> None:
        """Nobody hears the answer under way; uvicorn tells that only to the last one asked for."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
