"""REST over TLS on a real port: what is shown, renewed, refused and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_node.api import listener
from edge_node.api.app import create_app
from edge_node.config import NodeConfig
from edge_node.console import health
from edge_node.console.certs import Authority
from edge_node.errors import InvalidRequest
from edge_node.lasting import Loops
from edge_node.rest_tls import RestPair, RestTls
from edge_node.telemetry.metrics import NodeMetrics
from tests.api.memory_front_desk import MemoryFrontDesk
from tests.api.served import BODIES, UPLOADS

PASSWORD = b"secret"


def pair(folder: Path, name: str = "a", *, days: int = 30, password: bytes = b"") -> RestPair:
    """A certificate of its own authority for 127.0.0.1; one of -1 days is over."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    made = RestPair(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(pem))
    made.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, how))
    return made


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.asynccontextmanager
async def listening(config: NodeConfig) -> AsyncIterator[str]:
    """Address of a node's own listener over a front desk in memory."""
    stopping = asyncio.Event()

    async def nothing(*_: object) -> None:
        """Is under way."""

    app = create_app(
        MemoryFrontDesk(), metrics=NodeMetrics(), body_limits=BODIES, upload_limits=UPLOADS
    )
    serving = asyncio.create_task(
        listener.listen(
            app,
            config,
            stopping=stopping,
            drain=nothing,
            finish=nothing,
            loops=Loops(),
            tls=RestTls.of(config),
        )
    )
    address = f"127.0.0.1:{config.rest_port}"
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", config.rest_port)
                    writer.close()
                    break
                assert not serving.done()
                await asyncio.sleep(0.02)
        yield address
    finally:
        stopping.set()
        await serving


def config_of(made: RestPair | None, **more: object) -> NodeConfig:
    fields: dict[str, object] = {
        "node_id": "orin-a",
        "rest_port": free_port(),
        "drain_s": 0.0,
    } | more
    if made is not None:
        fields |= {
            "rest_tls": True,
            "rest_tls_certificate": made.certificate,
            "rest_tls_key": made.key,
        }
    return NodeConfig.model_validate(fields)


def trusting(*pairs: RestPair) -> httpx.AsyncClient:
    context = ssl.create_default_context()
    for one in pairs:
        context.load_verify_locations(str(one.certificate))
    return httpx.AsyncClient(verify=context, trust_env=False, timeout=5.0)


def test_clients_that_know_the_authority_are_served_and_browsers_told_to_stay(
    tmp_path: Path,
) -> None:
    made = pair(tmp_path)

    async def story() -> None:
        config = config_of(made)
        async with listening(config) as address, trusting(made) as http:
            answer = await http.get(f"https://{address}/v1/models")
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            async with httpx.AsyncClient(trust_env=False) as stranger:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await stranger.get(f"https://{address}/v1/models")
                with pytest.raises(httpx.TransportError):
                    await stranger.get(f"http://{address}/v1/models")
            assert (await http.get(f"https://{address}/livez")).status_code == 200
            looked = await asyncio.to_thread(health.look, config, "node")
            assert (looked.alive, looked.ready) == (True, True), looked.line
        in_clear = config_of(None)
        async with listening(in_clear) as address, httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"http://{address}/v1/models")
            assert "strict-transport-security" not in answer.headers

    asyncio.run(story())


def test_health_believes_the_certificate_that_is_here_alone(tmp_path: Path) -> None:
    made, other = pair(tmp_path), pair(tmp_path, "b")

    async def story() -> None:
        config = config_of(made)
        async with listening(config):
            another = config.model_copy(
                update={"rest_tls_certificate": other.certificate, "rest_tls_key": other.key}
            )
            looked = await asyncio.to_thread(health.look, another, "node")
            assert not looked.alive
            assert "CERTIFICATE_VERIFY_FAILED" in looked.line

    asyncio.run(story())


def test_a_renewed_pair_counts_from_the_next_connection_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "LOOK_EVERY_S", 0.05)
    made, new = pair(tmp_path), pair(tmp_path, "new")

    async def served_with(address: str, one: RestPair) -> bool:
        async with trusting(one) as http:
            with contextlib.suppress(httpx.ConnectError):
                return (await http.get(f"https://{address}/livez")).status_code == 200
            return False

    async def story() -> None:
        async with listening(config_of(made)) as address, trusting(made) as lasting:
            assert (await lasting.get(f"https://{address}/livez")).status_code == 200
            former = made.certificate.read_bytes()
            kept = RestPair(certificate=tmp_path / "former.pem", key=made.key)
            kept.certificate.write_bytes(former)
            shutil.copyfile(new.certificate, made.certificate)  # its key is not there yet
            async with asyncio.timeout(5):
                while "former certificate is kept" not in caplog.text:
                    await asyncio.sleep(0.02)
            assert await served_with(address, kept)
            shutil.copyfile(new.key, made.key)
            async with asyncio.timeout(5):
                while not await served_with(address, new):
                    await asyncio.sleep(0.02)
            assert not await served_with(address, kept)
            assert (await lasting.get(f"https://{address}/livez")).status_code == 200
            made.certificate.unlink()
            await asyncio.sleep(0.2)
            assert await served_with(address, new), "what is gone is kept in memory"

    with caplog.at_level("INFO"):
        asyncio.run(story())
    assert "is renewed" in caplog.text


def test_a_pair_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    made, other = pair(tmp_path), pair(tmp_path, "b")
    over = pair(tmp_path, "over", days=-1)
    locked = pair(tmp_path, "locked", password=PASSWORD)
    garbled = tmp_path / "garbled.pem"
    garbled.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    wrong = {
        "no such file": RestPair(certificate=tmp_path / "none.pem", key=made.key),
        "key values mismatch": RestPair(certificate=made.certificate, key=other.key),
        "certificate has expired": over,
        "cannot be used": locked,
        "REST's certificate": RestPair(certificate=garbled, key=made.key),
    }
    for why, one in wrong.items():
        with pytest.raises(InvalidRequest, match=why) as refused:
            RestTls(one)
        assert str(one.certificate) in refused.value.message
        assert refused.value.param == "rest_tls"


def test_a_certificate_of_the_clusters_authority_serves_too(tmp_path: Path) -> None:
    authority = Authority.begin(tmp_path / "certs", cluster_name="dedgeai")
    folder = authority.issue("node-0", days=30, hosts=["127.0.0.1", "orin-1.lan"])
    assert authority.hosts("node-0") == ["orin-1.lan", "127.0.0.1"]
    folder = authority.issue("node-0", days=30)  # renewed for as many names
    assert authority.hosts("node-0") == ["orin-1.lan", "127.0.0.1"]
    with pytest.raises(InvalidRequest, match="neither"):
        authority.issue("node-0", days=30, hosts=["no host"])

    async def story() -> None:
        config = config_of(None, rest_tls=True, tls_folder=folder)
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        async with (
            listening(config) as address,
            httpx.AsyncClient(verify=context, trust_env=False) as http,
        ):
            assert (await http.get(f"https://{address}/livez")).status_code == 200

    asyncio.run(story())


def test_who_does_not_greet_is_not_waited_for(tmp_path: Path) -> None:
    made = pair(tmp_path)

    async def story() -> None:
        config = config_of(made, request_header_s_max=0.5)
        async with listening(config):
            reader, writer = await asyncio.open_connection("127.0.0.1", config.rest_port)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rest_tls_certificate": "a.pem", "rest_tls": True}, "go together"),
        ({"rest_tls_certificate": "a.pem", "rest_tls_key": "a.key"}, "with rest_tls = true"),
        ({"rest_tls": True}, "needs a certificate"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        NodeConfig.model_validate(settings)
