"""Who judges: an operator's command, asked on its standard input, or his URL, asked by POST.

Owns that neither is left running or waited for longer than the caller does. Both answer with a JSON
object: {"allow": true}, or {"allow": false, "reason": "a sentence for the client"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from edge_node.moderation.moderator import ANSWER_BYTES_MAX, NoAnswer

if TYPE_CHECKING:
    import httpx


class CommandJudge:
    """Starts a process for each question; one that is no longer waited for is killed with its kin.

    It reads one JSON object to the end of its input, answers on its standard output and exits 0.
    What it says on its standard error is dropped, for it may be what was asked.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    async def ask(self, question: bytes) -> bytes:
        """Its answer; raises NoAnswer or OSError."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        telling = asyncio.create_task(_tell(process, question))
        try:
            answer = await _answer(process)
            code = await process.wait()
        finally:
            telling.cancel()
            # Also of one that ended: what it has started may live on.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            # What left its session keeps the other ends open, and is not waited for; asyncio has no
            # name for that.
            cast(Any, process)._transport.close()
            await asyncio.shield(process.wait())
        if code != 0:
            raise NoAnswer(f"{self._command[0]} ended with {code}")
        return answer


async def _tell(process: asyncio.subprocess.Process, question: bytes) -> None:
    assert process.stdin is not None, "a pipe was asked for"
    with contextlib.suppress(ConnectionError):  # it need not hear it to the end
        process.stdin.write(question)
        await process.stdin.drain()
    process.stdin.close()


async def _answer(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None, "a pipe was asked for"
    answer = bytearray()
    while chunk := await process.stdout.read(ANSWER_BYTES_MAX):
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            raise NoAnswer(f"it says more than {ANSWER_BYTES_MAX} bytes")
    return bytes(answer)


class UrlJudge:
    """POSTs each question; 200 with the answer as its body, anything else is none."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http: httpx.AsyncClient | None = None

    async def ask(self, question: bytes) -> bytes:
        """Its answer; raises NoAnswer."""
        import httpx  # not in nodes that ask nobody

        if self._http is None:
            self._http = httpx.AsyncClient(timeout=None, trust_env=False, follow_redirects=False)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._http.stream(
                "POST", self._url, content=question, headers=headers
            ) as response:
                if response.status_code != 200:
                    raise NoAnswer(f"it answers with status {response.status_code}")
                answer = bytearray()
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise NoAnswer(f"it says more than {ANSWER_BYTES_MAX} bytes")
                return bytes(answer)
        except httpx.HTTPError as problem:
            raise NoAnswer(f"it cannot be asked: {type(problem).__name__}") from None

    async def close(self) -> None:
        """Closes its connections."""
        if self._http is not None:
            await self._http.aclose()
