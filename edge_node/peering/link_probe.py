"""A peer and the link to it, measured from outside of a running node.

Owns one channel for the time of one look. It changes nothing at the peer, and keeps protobuf from
those who ask.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import grpc
import grpc.aio
from dedgeai.v1 import node_pb2, node_pb2_grpc

from edge_node.errors import OriginUnavailable
from edge_node.peering.tls import ANY_NODE, NodeTls
from edge_node.peering.tls import channel as tls_channel

CALL_S_MAX = 5.0
ROUND_TRIPS = 5
# Of a call that carries padding; below codec.MESSAGE_BYTES_MAX. At 1 Gbit/s it takes 34 ms, so a
# round trip of the LAN and the peer's answer are a small part of it.
PADDING_BYTES = 4 * 2**20
PADDED_CALLS = 3
# The largest field number there is, which no message of ours will use: receivers skip it.
_PADDING_TAG = (2**29 - 1) << 3 | 2


@dataclass(frozen=True, kw_only=True)
class PeerFound:
    """Who listens at an address."""

    node_id: str
    version: str
    model: str
    rest_url: str


@dataclass(frozen=True, kw_only=True)
class LinkMeasured:
    """The link to a peer.

    Attributes:
        peer: who answered.
        round_trip_s: median of small calls.
        sent_bit_s: what went through from here to there, best of a few large calls, protocol and
            the peer's reading included; None where even one took too long.
    """

    peer: PeerFound
    round_trip_s: float
    sent_bit_s: float | None


async def describe_peer(address: str, *, tls: NodeTls | None = None) -> PeerFound:
    """Who listens at `address` (host:port).

    Raises:
        OriginUnavailable: nobody that speaks our protocol.
    """
    async with _channel(address, tls) as channel:
        return await _described(node_pb2_grpc.NodeServiceStub(channel), address)


async def measure_link(address: str, *, tls: NodeTls | None = None) -> LinkMeasured:
    """Round trip and bandwidth to the peer at `address` (host:port), in at most some 40 s.

    Raises:
        OriginUnavailable: nobody that speaks our protocol listens there.
    """
    async with _channel(address, tls) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)
        # The first call opens the connection, and is no measure of it.
        peer = await _described(stub, address)
        round_trips_s = []
        for _ in range(ROUND_TRIPS):
            start_s = time.perf_counter()
            await _described(stub, address)
            round_trips_s.append(time.perf_counter() - start_s)
        round_trip_s = statistics.median(round_trips_s)
        return LinkMeasured(
            peer=peer,
            round_trip_s=round_trip_s,
            sent_bit_s=await _sent_bit_s(stub, round_trip_s=round_trip_s),
        )


def _channel(address: str, tls: NodeTls | None) -> grpc.aio.Channel:
    # A proxy set for the outside world is not for the LAN.
    options: list[tuple[str, object]] = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return tls_channel(address, tls.material(), name=ANY_NODE, options=options)


async def _described(stub: node_pb2_grpc.NodeServiceAsyncStub, address: str) -> PeerFound:
    request = node_pb2.NodeServiceDescribeRequest()
    try:
        answer = await stub.Describe(request, timeout=CALL_S_MAX)
    except grpc.aio.AioRpcError as error:
        raise OriginUnavailable(
            f"The node at {address} does not answer ({error.code().name})."
        ) from None
    return PeerFound(
        node_id=answer.node_id,
        version=answer.version,
        model=answer.model,
        rest_url=answer.rest_url,
    )


async def _sent_bit_s(
    stub: node_pb2_grpc.NodeServiceAsyncStub, *, round_trip_s: float
) -> float | None:
    request = _padded_request()
    best_s = None
    for _ in range(PADDED_CALLS):
        start_s = time.perf_counter()
        try:
            await stub.Describe(request, timeout=CALL_S_MAX)
        except grpc.aio.AioRpcError:
            break
        taken_s = time.perf_counter() - start_s
        best_s = taken_s if best_s is None else min(best_s, taken_s)
    if best_s is None:
        return None
    # What a call of any size takes is no part of the bandwidth, nor may it be all of the time.
    return 8 * PADDING_BYTES / max(best_s - round_trip_s, best_s / 2)


def _padded_request() -> node_pb2.NodeServiceDescribeRequest:
    """The smallest question with a field that its receiver does not know."""
    padding = _varint(_PADDING_TAG) + _varint(PADDING_BYTES) + bytes(PADDING_BYTES)
    request = node_pb2.NodeServiceDescribeRequest()
    request.MergeFromString(padding)
    return request


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
