"""Mutual TLS between nodes: who is at the other end, proved by the cluster's own authority.

Owns a node's certificate, key and authorities as they lie in `tls_folder`, and what gRPC makes of
them. They are read again when they change, so that a renewed certificate counts from the next
connection on, without a restart. A certificate names its node twice: as
`spiffe://<cluster>/node/<id>` for whoever is called, and for whoever calls as names of hosts, as
gRPC proves no others: one that all nodes have, and one of the node's own.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from edge_node.config import NodeConfig
from edge_node.domain import NodeId
from edge_node.errors import InvalidRequest, NotTheCaller
from edge_node.handshake import told_by_itself, uris_of

log = logging.getLogger(__name__)

CERTIFICATE, KEY, AUTHORITIES = "node.pem", "node.key", "ca.pem"
# Of every node, and above the one that is a node's own. Nobody resolves them.
ANY_NODE = "node.dedgeai.internal"
# Between two looks at the files.
LOOK_EVERY_S = 1.0


def node_uri(cluster_name: str, node_id: str) -> str:
    """A node's name in its certificate."""
    return f"spiffe://{cluster_name}/node/{node_id}"


def server_name(node_id: str) -> str:
    """A node's own host name; of its digest, as letters' case and underscores are none in DNS."""
    return f"{hashlib.sha256(node_id.encode()).hexdigest()[:32]}.{ANY_NODE}"


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a connection is made with, as PEM; `expires_unix_s` is the certificate's end."""

    certificate: bytes
    key: bytes
    authorities: bytes
    expires_unix_s: float


class NodeTls:
    """The certificate of one node, as it lies in a folder.

    Args:
        folder: with node.pem, node.key and ca.pem, as `dedgeai certs issue` writes them.
        node_id: whose it must be.
        cluster_name: of which cluster.

    Raises:
        InvalidRequest: it cannot be used; with what to do.
    """

    def __init__(self, folder: Path, *, node_id: str, cluster_name: str) -> None:
        self._folder = folder
        self.node_id = node_id
        self.cluster_name = cluster_name
        self._lock = threading.Lock()
        self._seen = self._look()
        self._material = self._read()
        self._looked_s = time.monotonic()

    @classmethod
    def of(cls, config: NodeConfig) -> NodeTls | None:
        """From the node's settings; None where it speaks in clear."""
        if config.tls_folder is None:
            return None
        return cls(config.tls_folder, node_id=config.node_id, cluster_name=config.cluster_name)

    def material(self) -> Material:
        """As it is in the folder now; as it was, where what is there now cannot be used."""
        with self._lock:  # handshakes are other threads'
            now_s = time.monotonic()
            if now_s - self._looked_s >= LOOK_EVERY_S:
                self._looked_s = now_s
                seen = self._look()
                if seen != self._seen:
                    self._seen = seen
                    self._renew()
            return self._material

    def _renew(self) -> None:
        try:
            self._material = self._read()
        except InvalidRequest as problem:
            log.error("the former certificate is kept: %s", problem.message)
        else:
            log.info("the certificate in %s is renewed", self._folder)

    def expires_unix_s(self) -> float:
        """When the certificate in use ends."""
        return self.material().expires_unix_s

    def server_credentials(self) -> grpc.ServerCredentials:
        """Of a listener that takes nodes of this cluster only, with what is current at each."""
        handed: list[Material] = [self.material()]

        def configuration() -> grpc.ServerCertificateConfiguration:
            current = handed[-1]
            return grpc.ssl_server_certificate_configuration(
                [(current.key, current.certificate)], root_certificates=current.authorities
            )

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            current = self.material()
            if current is handed[-1]:
                return None  # as before
            handed[:] = [current]
            return configuration()

        fetcher: Any = fetch  # None, where nothing has changed, is in gRPC's words alone
        return grpc.dynamic_ssl_server_credentials(
            configuration(), fetcher, require_client_authentication=True
        )

    def caller_id(self, context: grpc.aio.ServicerContext[object, object]) -> NodeId:
        """Who calls, by his certificate.

        Raises:
            NotTheCaller: the authority has let him in, and not as a node of this cluster.
        """
        prefix = node_uri(self.cluster_name, "")
        for uri in context.auth_context().get("peer_uri", ()):
            if uri.decode().startswith(prefix):
                return NodeId(unquote(uri.decode().removeprefix(prefix)))
        raise NotTheCaller(f"The certificate is of no node of the cluster {self.cluster_name}.")

    def _look(self) -> tuple[int, ...]:
        """Changes with the files, and with who may read them: not so when they were written."""
        paths = (self._folder / name for name in (CERTIFICATE, KEY, AUTHORITIES))
        return tuple(path.stat().st_ctime_ns if path.exists() else 0 for path in paths)

    def _read(self) -> Material:
        certificate, key, authorities = (
            self._folder / name for name in (CERTIFICATE, KEY, AUTHORITIES)
        )
        again = f"Make them with: dedgeai certs issue {self.node_id}."
        try:
            told = told_by_itself(
                certificate, key, authorities=authorities.read_text(), both_ways=True
            )
            found = Material(
                certificate=certificate.read_bytes(),
                key=key.read_bytes(),
                authorities=authorities.read_bytes(),
                expires_unix_s=ssl.cert_time_to_seconds(str(told["notAfter"])),
            )
        except (OSError, ValueError) as problem:  # ssl.SSLError is an OSError
            why = getattr(problem, "reason", None) or getattr(problem, "strerror", None) or problem
            raise InvalidRequest(
                f"The certificate, key and authorities in {self._folder} cannot be used: {why}. "
                f"{again}",
                param="tls_folder",
            ) from None
        uris = uris_of(told)
        wanted = node_uri(self.cluster_name, self.node_id)
        if wanted not in uris:
            raise InvalidRequest(
                f"The certificate in {self._folder} is of {', '.join(uris) or 'no node'}, and this "
                f"is {wanted}. {again}",
                param="tls_folder",
            )
        return found


def channel(
    address: str,
    material: Material,
    *,
    name: str,
    options: list[tuple[str, object]],
) -> grpc.aio.Channel:
    """To the node at an address, which must prove `name`: ANY_NODE, or a `server_name`."""
    credentials = grpc.ssl_channel_credentials(
        material.authorities, private_key=material.key, certificate_chain=material.certificate
    )
    named = [*options, ("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(address, credentials, options=named)
