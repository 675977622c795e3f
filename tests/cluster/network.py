"""The simulated network: calls between processes that are late, lost, doubled, reset or cut off.

A call is a stream of items from the process that serves it, as every RPC of a node is. It ends with
the stream, with an error of ours, or broken: by a crash, by a cut, or because nothing came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from edge_node.errors import DEdgeAIError
from tests.cluster.virtual_time import ProcessLoop, VirtualTime, process_loop

T = TypeVar("T")


class Broken(Exception):
    """The connection is gone; what became of the call is unknown."""


class Unanswered(Broken):
    """The connection is there, and nothing comes over it."""


class Process(Protocol):
    """What the network reaches at an address."""

    name: str
    loop: ProcessLoop

    def bug(self, error: Exception) -> None:
        """Something that is none of our errors came out of a call."""
        ...


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: Exception | None = None


class _Call:
    """One call under way; each end lives on the loop of its process."""

    def __init__(self, source: Process, address: str, *, wild: bool) -> None:
        self.source = source
        self.wild = wild
        self.address = address
        self.target: Process | None = None
        self.serving: list[asyncio.Task[None]] = []
        self.arrived: asyncio.Queue[_Item[Any] | _End] = asyncio.Queue()
        self.over = False
        # Neither end is told, and nothing passes any more.
        self.swallowed = False
        # A stream keeps its order: nothing arrives before what was sent earlier.
        self.last_arrival_s = 0.0


class Network:
    """All calls between processes.

    Args:
        time: the clock.
        rng: decides what is late, lost or doubled.
        at: gives the process that listens at an address now, if one does.
    """

    def __init__(
        self,
        time: VirtualTime,
        rng: np.random.Generator,
        *,
        at: Callable[[str], Process | None],
    ) -> None:
        self._time = time
        self._rng = rng
        self._at = at
        # Messages under way belong to nobody.
        self._air = process_loop(time, "air")
        self._calls: dict[int, _Call] = {}
        self._numbered = 0
        self._cuts: dict[frozenset[str], float] = {}
        self.faulty = True
        self.loss = float(rng.uniform(0, 0.03))
        self.duplication = float(rng.uniform(0, 0.03))
        self.reordering = float(rng.uniform(0, 0.03))
        self.delay_s = float(rng.uniform(0.001, 0.15))

    async def stream(
        self,
        source: Process,
        address: str,
        serve: Callable[[Any], AsyncGenerator[T, None]],
        *,
        wild: bool = False,
    ) -> AsyncGenerator[T, None]:
        """Calls the process at `address`; yields what `serve` of it yields.

        `wild`: items may be lost, doubled and out of order, as no TCP connection has it: reports
        and states must stand that.

        Raises:
            Broken, or the error of ours that `serve` raised.
        """
        call = _Call(source, address, wild=wild)
        self._numbered += 1
        number = self._numbered
        self._calls[number] = call
        if not self._send(call, source.name, address, lambda: self._open(call, serve)):
            self._break(call, after_s=float(self._rng.uniform(0.5, 3.0)))
        try:
            while True:
                arrived = await call.arrived.get()
                if isinstance(arrived, _Item):
                    yield arrived.value
                elif arrived.error is not None:
                    raise arrived.error
                else:
                    return
        finally:
            del self._calls[number]
            call.over = True
            if call.target is not None:
                # Where it cannot be told, the other end's keepalive notices.
                cut = self._is_cut(source.name, address)
                delay_s = float(self._rng.uniform(0.5, 3.0)) if cut else 0.001
                self._air.call_later(delay_s, lambda: self._hang_up(call))

    async def once(
        self,
        source: Process,
        address: str,
        serve: Callable[[Any], Awaitable[T]],
        *,
        timeout_s: float = 5.0,
    ) -> T:
        """Calls for one answer; Broken or, after `timeout_s` without it, Unanswered."""

        async def answer(process: Any) -> AsyncGenerator[T, None]:
            yield await serve(process)

        try:
            async with asyncio.timeout(timeout_s):
                async with aclosing(self.stream(source, address, answer)) as answers:
                    async for one in answers:
                        return one
        except TimeoutError:
            pass
        raise Unanswered(f"no answer from {address}")

    def send(self, source: Process, address: str, arrive: Callable[[Any], None]) -> None:
        """Sends one message to whichever process listens when it arrives."""
        call = _Call(source, address, wild=True)

        def deliver() -> None:
            target = self._at(address)
            if target is not None:
                target.loop.call_soon(arrive, target)

        self._send(call, source.name, address, deliver)

    # Faults.

    def cut(self, name: str, others: list[str], *, lasts_s: float) -> None:
        """Nothing passes between the two sides for so long; their calls break."""
        for other in others:
            self._cuts[frozenset((name, other))] = self._time.now_s + lasts_s
        for call in list(self._calls.values()):
            target = None if call.target is None else call.target.name
            if frozenset((call.source.name, target or "")) in self._cuts:
                self._break(call, after_s=float(self._rng.uniform(0.5, 3.0)))

    def process_ended(self, process: Process) -> None:
        """The other ends of its calls are reset by its machine."""
        for call in list(self._calls.values()):
            if process in (call.source, call.target):
                self._break(call, after_s=0.01)
                if call.source is process:
                    call.over = True

    def _is_cut(self, source: str, address: str) -> bool:
        target = self._at(address)
        name = address if target is None else target.name
        return self._cuts.get(frozenset((source, name)), 0.0) > self._time.now_s

    def _break(self, call: _Call, *, after_s: float) -> None:
        def reset() -> None:
            if not call.over:
                self._arrive(call, _End(Broken("the connection was reset")))
            self._hang_up(call)

        self._air.call_later(after_s, reset)

    # How messages travel.

    def _send(self, call: _Call, source: str, address: str, deliver: Callable[[], None]) -> bool:
        """Delivers late, or twice; or not at all, and then returns False."""
        if source == "clients" or not self.faulty:
            self._deliver_at(call, 0.001, deliver)
            return True
        lost = call.wild and self._rng.random() < self.loss
        if lost and self._rng.random() < 0.5:
            call.swallowed = True
        if lost or call.swallowed or self._is_cut(source, address):
            return False
        straggles = self._rng.random() < 0.08
        delay_s = float(self._rng.exponential(self.delay_s * (20 if straggles else 1)))
        self._deliver_at(call, delay_s, deliver)
        if call.wild and self._rng.random() < self.duplication:
            self._deliver_at(call, float(self._rng.exponential(self.delay_s)), deliver)
        return True

    def _deliver_at(self, call: _Call, delay_s: float, deliver: Callable[[], None]) -> None:
        arrival_s = self._time.now_s + delay_s
        if not (call.wild and self.faulty and self._rng.random() < self.reordering):
            arrival_s = max(arrival_s, call.last_arrival_s)
            call.last_arrival_s = arrival_s
        self._air.call_at(arrival_s, deliver)

    def _open(self, call: _Call, serve: Callable[[Any], AsyncGenerator[Any, None]]) -> None:
        target = self._at(call.address)
        if target is None:
            self._break(call, after_s=0.001)
            return
        call.target = target
        target.loop.call_soon(self._serve, call, target, serve)

    def _serve(
        self, call: _Call, target: Process, serve: Callable[[Any], AsyncGenerator[Any, None]]
    ) -> None:
        async def run() -> None:
            end = _End()
            try:
                async with aclosing(serve(target)) as items:
                    async for item in items:
                        self._reply(call, target, _Item(item))
            except DEdgeAIError as error:
                end = _End(error)
            except Exception as error:
                target.bug(error)
                end = _End(Broken(repr(error)))
            self._reply(call, target, end)

        # A request that came twice is served twice, as gRPC's transparent retries do it.
        call.serving.append(asyncio.create_task(run()))

    def _reply(self, call: _Call, target: Process, item: _Item[Any] | _End) -> None:
        if call.source.name == "clients" or (isinstance(item, _End) and not call.wild):
            # The end of a stream is the transport's: where it is lost, the connection is.
            self._deliver_at(call, 0.001, lambda: self._arrive(call, item))
        else:
            self._send(call, target.name, _address_of(call), lambda: self._arrive(call, item))

    def _arrive(self, call: _Call, item: _Item[Any] | _End) -> None:
        if not call.over:
            call.source.loop.call_soon(call.arrived.put_nowait, item)

    def _hang_up(self, call: _Call) -> None:
        if call.target is not None:
            for serving in call.serving:
                call.target.loop.call_soon(serving.cancel)


def _address_of(call: _Call) -> str:
    return getattr(call.source, "address", call.source.name)
