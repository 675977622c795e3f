"""A socket in front of a real Valkey that passes everything on and notes what was asked.

Owns no answer but one: what the disk is said to have confirmed can be withheld, or be less than
the server said. It can also be slow with one script, as if its connection were.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

Asked = tuple[bytes, ...]


class RecordingStore:
    """Between one event loop's connections and a server.

    Attributes:
        asked: every command of every connection, in the order of arrival.
        disk_asked: set once WAITAOF was asked since `begin`.
        disk_may_answer: until it is set, the answer to WAITAOF is withheld.
        holds_next_script: the next EVAL reaches the server only after `held_may_pass`.
        held_passed: set once it has, and the server has answered.
        disk_says: in place of the server's answer to WAITAOF, such as b"*2\\r\\n:0\\r\\n:0\\r\\n".
    """

    def __init__(self, server: Path, socket_path: Path) -> None:
        self._server = server
        self._socket_path = socket_path
        self.url = f"unix://{socket_path}"
        self.asked: list[Asked] = []
        self.disk_asked = asyncio.Event()
        self.disk_may_answer = asyncio.Event()
        self.disk_may_answer.set()
        self.disk_says: bytes | None = None
        self.holds_next_script = False
        self.held_may_pass = asyncio.Event()
        self.held_passed = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Forgets what was asked until now."""
        self.asked.clear()
        self.disk_asked.clear()

    @property
    def names_asked(self) -> list[str]:
        """Of the commands, without what a connection begins with."""
        names = [command[0].decode() for command in self.asked]
        return [name for name in names if name not in ("CLIENT", "HELLO")]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[RecordingStore]:
        """Takes connections as long as it is entered."""
        server = await asyncio.start_unix_server(self._serve, self._socket_path)
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await asyncio.sleep(0)  # for the sockets to close
            self._socket_path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._connections.add(serving)
        serving.add_done_callback(self._connections.discard)
        with contextlib.closing(writer):
            there_reader, there_writer = await asyncio.open_unix_connection(self._server)
            with (
                contextlib.closing(there_writer),
                contextlib.suppress(asyncio.IncompleteReadError, ConnectionError),
            ):
                while True:
                    answer = await self._answer(
                        await _one_value(reader), there_reader, there_writer
                    )
                    writer.write(answer)

    async def _answer(
        self, raw: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """What is said to a command: mostly what the server says."""
        # An array of strings: every other part of it is a string's length.
        command = tuple(raw.split(b"\r\n")[2::2])
        self.asked.append(command)
        held = self.holds_next_script and command[0] == b"EVAL"
        if held:
            self.holds_next_script = False
            await self.held_may_pass.wait()
        writer.write(raw)
        answer = await _one_value(reader)
        if held:
            self.held_passed.set()
        if command[0] == b"WAITAOF":
            self.disk_asked.set()
            await self.disk_may_answer.wait()
            answer = self.disk_says or answer
        return answer


async def _one_value(reader: asyncio.StreamReader) -> bytes:
    """The next value of the protocol (RESP 2 or 3), as it came."""
    head = await reader.readuntil(b"\r\n")
    kind, rest = head[:1], head[1:-2]
    if kind in b"$=!" and rest != b"-1":
        return head + await reader.readexactly(int(rest) + 2)
    if kind in b"*~>%" and rest != b"-1":
        parts = int(rest) * (2 if kind == b"%" else 1)
        return head + b"".join([await _one_value(reader) for _ in range(parts)])
    return head
