"""Mutual TLS between nodes, over real channels: who is let in, as whom, and renewal."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from dedgeai.v1 import node_pb2, node_pb2_grpc

from edge_node.console.certs import Authority
from edge_node.dispatch.told_reports import ToldReports
from edge_node.domain import AttemptStarted, NodeId, NodeState
from edge_node.errors import InvalidRequest, NotTheCaller, OriginUnavailable
from edge_node.peering import tls as tls_module
from edge_node.peering.client import PeerClient
from edge_node.peering.server import NodeServicer, PeerServer
from edge_node.peering.service import PeerService
from edge_node.peering.tls import ANY_NODE, Material, NodeTls, channel, server_name
from tests.peering.nothing_learned import NothingLearned
from tests.security.attacker import Attacked, offload_message, refused
from tests.security.test_attacks import OFFLOAD

DENIED = grpc.StatusCode.PERMISSION_DENIED
AWAY = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(autouse=True)
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "LOOK_EVERY_S", 0.0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.begin(tmp_path / "certs", cluster_name="lab")


def tls_of(authority: Authority, node_id: str, *, days: int = 30) -> NodeTls:
    folder = authority.issue(node_id, days=days)
    return NodeTls(folder, node_id=node_id, cluster_name=authority.cluster_name)


@contextlib.asynccontextmanager
async def listening(attacked: Attacked, tls: NodeTls) -> AsyncIterator[str]:
    parts: Any = attacked
    servicer = NodeServicer(PeerService(parts, parts, NothingLearned()), version="0", tls=tls)
    server = PeerServer(servicer, host="127.0.0.1", port=0, tls=tls)
    try:
        yield f"127.0.0.1:{await server.start()}"
    finally:
        await server.stop(grace_s=0)


@contextlib.asynccontextmanager
async def stub_of(address: str, tls: NodeTls, *, name: str = ANY_NODE) -> AsyncIterator[Any]:
    async with channel(address, tls.material(), name=name, options=[]) as opened:
        yield node_pb2_grpc.NodeServiceStub(opened)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(in_time())


ASK = node_pb2.NodeServiceDescribeRequest()


def test_nobody_is_let_in_without_a_certificate_of_the_cluster(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority.begin(tmp_path / "other", cluster_name="lab")
    other_cluster = Authority.begin(tmp_path / "third", cluster_name="third")

    async def story() -> None:
        async with listening(Attacked(), tls_of(authority, "own")) as address:
            async with grpc.aio.insecure_channel(address) as plain:
                with refused(AWAY):
                    await node_pb2_grpc.NodeServiceStub(plain).Describe(ASK, timeout=2.0)
            for strange in (other, other_cluster):
                async with stub_of(address, tls_of(strange, "evil")) as stub:
                    with refused(AWAY):
                        await stub.Describe(ASK, timeout=2.0)
            async with stub_of(address, tls_of(authority, "peer")) as stub:
                assert (await stub.Describe(ASK, timeout=5.0)).node_id == "own"

    run(story)


def test_a_node_speaks_in_its_own_name_only(authority: Authority) -> None:
    attacked = Attacked()

    async def says(node_id: str) -> AsyncIterator[node_pb2.ExchangeStateRequest]:
        state = node_pb2.NodeState(node_id=node_id, incarnation=2**40, sequence=1, leaving=True)
        yield node_pb2.ExchangeStateRequest(state=state)
        await asyncio.Event().wait()

    async def story() -> None:
        async with (
            listening(attacked, tls_of(authority, "own")) as address,
            stub_of(address, tls_of(authority, "Evil_1")) as stub,
        ):
            for message in (offload_message(), offload_message(origin="Evil_1")):
                with refused(DENIED):
                    async for _ in stub.Offload(message):
                        pass
            cancel = node_pb2.CancelOffloadRequest(
                task_id="victim-01ARZ3NDEKTSV4RRFFQ69G5FAV", attempt=4097
            )
            with refused(DENIED):
                await stub.CancelOffload(cancel)
            with refused(DENIED):
                async for _ in stub.ExchangeState(says("victim")):
                    pass
            assert attacked.heard == attacked.hosted == attacked.cancelled == []
            own = stub.ExchangeState(says("Evil_1"))
            await anext(aiter(own))
            while not attacked.heard:
                await asyncio.sleep(0.01)
            own.cancel()

    run(story)
    assert [state.node_id for state in attacked.heard] == ["Evil_1"]


def test_who_answers_has_to_be_who_he_says(authority: Authority) -> None:
    """A node that poses as another in what it says cannot prove that name."""
    posing = Attacked(id=NodeId("victim"))

    async def story() -> None:
        async with listening(posing, tls_of(authority, "evil")) as address:
            client = PeerClient(address, tls=tls_of(authority, "own"))
            with pytest.raises(OriginUnavailable):
                await client.ping()
            await client.close()
        async with listening(Attacked(id=NodeId("b")), tls_of(authority, "b")) as address:
            client = PeerClient(address, tls=tls_of(authority, "own"))
            await client.ping()
            assert client.proven_id == "b"
            await client.close()

    run(story)


def test_states_of_another_than_who_was_met_are_not_heard(authority: Authority) -> None:
    b = Attacked(id=NodeId("b"))

    async def nothing() -> AsyncIterator[NodeState]:
        await asyncio.Event().wait()
        yield b.state()

    async def story() -> None:
        async with listening(b, tls_of(authority, "b")) as address:
            client = PeerClient(address, tls=tls_of(authority, "own"))
            await client.ping()
            b.id = NodeId("c")
            with pytest.raises(NotTheCaller):
                async for _ in client.exchange_state(nothing()):
                    pass
            await client.close()

    run(story)


def serial_at(address: str, folder: Path) -> str:
    """Serial number of the certificate that a listener shows now."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(str(folder / "node.pem"), str(folder / "node.key"))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5.0) as plain,
        context.wrap_socket(plain, server_hostname=ANY_NODE) as secure,
    ):
        told = secure.getpeercert()
        assert told is not None
        return str(told["serialNumber"])


def test_a_renewed_certificate_counts_without_a_restart_and_breaks_no_call(
    authority: Authority,
) -> None:
    b = Attacked(id=NodeId("b"))
    reports = ToldReports()

    async def host(offload: Any, *, init_image: bytes) -> ToldReports:
        return reports

    b.host = host  # type: ignore[method-assign]

    async def story() -> None:
        own = tls_of(authority, "own")
        async with listening(b, tls_of(authority, "b")) as address:
            client = PeerClient(address, tls=own)
            following = client.offload(OFFLOAD)
            reports.put_nowait(AttemptStarted())
            assert await anext(following) == AttemptStarted()
            former = client._line
            folder = authority.folder / "nodes" / "own"
            before = await asyncio.to_thread(serial_at, address, folder)
            for node_id in ("own", "b"):
                authority.issue(node_id, days=30)
            await client.ping()
            after = await asyncio.to_thread(serial_at, address, folder)
            assert before != after
            assert client._line is not former
            reports.put_nowait(AttemptStarted())
            assert await anext(following) == AttemptStarted()  # over the former line
            await following.aclose()
            assert former is not None
            assert former.calls == 0
            await client.close()

    run(story)


def test_the_authority_is_renewed_in_steps_that_break_nothing(authority: Authority) -> None:
    async def story() -> None:
        own = tls_of(authority, "own")
        async with listening(Attacked(id=NodeId("b")), tls_of(authority, "b")) as address:
            client = PeerClient(address, tls=own)
            authority.renew_itself()
            await client.ping()
            authority.issue("own", days=30)  # of the new one, while b has a former one's
            await client.ping()
            authority.issue("b", days=30)
            await client.ping()
            authority.forget_former()
            await client.ping()
            assert client.proven_id == "b"
            await client.close()

    run(story)


def test_a_certificate_that_cannot_be_used_is_told_at_the_start_and_later_kept_out(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = authority.issue("own", days=30)
    with pytest.raises(InvalidRequest, match=r"is of spiffe://lab/node/own, and this is .*/other"):
        NodeTls(folder, node_id="other", cluster_name="lab")
    with pytest.raises(InvalidRequest, match="dedgeai certs issue own"):
        NodeTls(tmp_path / "nowhere", node_id="own", cluster_name="lab")
    tls = NodeTls(folder, node_id="own", cluster_name="lab")
    before = tls.material()
    of_another = authority.issue("b", days=1) / "node.key"
    (folder / "node.key").write_bytes(of_another.read_bytes())
    assert tls.material() is before
    assert "the former certificate is kept" in caplog.text
    authority.issue("own", days=10)
    assert tls.material() is not before
    assert tls.expires_unix_s() < before.expires_unix_s


def test_a_stranger_of_the_same_authority_is_no_node(authority: Authority) -> None:
    assert server_name("A") != server_name("a")
    context: Any = type("Context", (), {"auth_context": lambda _: {"peer_uri": [b"spiffe://x/y"]}})
    with pytest.raises(NotTheCaller, match="no node of the cluster lab"):
        tls_of(authority, "own").caller_id(context())


def test_the_certificate_of_a_list_of_keys_lets_nobody_in(
    authority: Authority, tmp_path: Path
) -> None:
    """Every node holds it with its key: it may be good for nothing but the list."""
    signature = authority.sign_keys(b"{}").partition(b"{}\n")[2]
    own = tls_of(authority, "own")
    signed = Material(
        certificate=signature,
        key=signature,
        authorities=own.material().authorities,
        expires_unix_s=0.0,
    )

    async def story() -> None:
        async with listening(Attacked(), own) as address:
            with refused(AWAY):
                async with channel(address, signed, name=ANY_NODE, options=[]) as opened:
                    await node_pb2_grpc.NodeServiceStub(opened).Describe(ASK, timeout=2.0)
        # Nor does it listen in anybody's place.
        server = grpc.aio.server()
        pairs = [(signature, signature)]
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pairs))
        await server.start()
        client = PeerClient(f"127.0.0.1:{port}", tls=own)
        with pytest.raises(OriginUnavailable):
            await client.ping()
        await client.close()
        await server.stop(None)

    run(story)
