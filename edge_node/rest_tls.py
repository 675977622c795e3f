"""TLS of the REST surface: whose certificate it shows, renewed while it listens.

Owns the pair of files and the context that new connections are made with. A pair that cannot be
used is refused at the start, with a sentence; later the former one is kept, and the log says why.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest
from edge_node.handshake import told_by_itself

log = logging.getLogger(__name__)

# As `dedgeai certs` names them in tls_folder.
_CERTIFICATE, _KEY = "node.pem", "node.key"
# Between two looks at the files.
LOOK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class RestPair:
    """PEM files: a certificate with what leads to its authority, and its key."""

    certificate: Path
    key: Path

    @classmethod
    def of(cls, config: NodeConfig) -> RestPair | None:
        """From the node's settings; None where REST is in clear."""
        if not config.rest_tls:
            return None
        if config.rest_tls_certificate is not None and config.rest_tls_key is not None:
            return cls(certificate=config.rest_tls_certificate, key=config.rest_tls_key)
        assert config.tls_folder is not None, "settings that contradict each other are refused"
        return cls(
            certificate=config.tls_folder / _CERTIFICATE,
            key=config.tls_folder / _KEY,
        )


class RestTls:
    """What REST's listener proves with who it is.

    Raises:
        InvalidRequest: the pair cannot be used, and why.
    """

    def __init__(self, pair: RestPair) -> None:
        self._pair = pair
        self._seen = self._look()
        self._current = self._made()
        # The listener has this one for good; each handshake changes to what is current.
        self.context = self._made()
        self.context.sni_callback = self._change

    @classmethod
    def of(cls, config: NodeConfig) -> RestTls | None:
        """From the node's settings; None where REST is in clear."""
        pair = RestPair.of(config)
        return None if pair is None else cls(pair)

    def look(self) -> None:
        """Takes a pair that was renewed; the log says so, or why not."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._current = self._made()
        except InvalidRequest as problem:
            log.error("REST's former certificate is kept: %s", problem.message)
        else:
            log.info("REST's certificate %s is renewed", self._pair.certificate)

    def _change(self, side: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        side.context = self._current

    def _look(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in (self._pair.certificate, self._pair.key):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_ino))
        return tuple(found)

    def _made(self) -> ssl.SSLContext:
        chain, key = self._pair.certificate, self._pair.key
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            told_by_itself(chain, key, authorities=chain.read_text(), both_ways=False, pinned=True)
            # An encrypted key is an error; without a password here, OpenSSL would ask the terminal.
            context.load_cert_chain(str(chain), str(key), password="")
        except (OSError, ValueError) as problem:  # ssl.SSLError is an OSError
            raise InvalidRequest(
                f"REST's certificate {chain} and key {key} cannot be used: {_why(problem)}. Renew "
                "them, or set rest_tls_certificate and rest_tls_key to a pair that goes together.",
                param="rest_tls",
            ) from None
        return context


def own_context(config: NodeConfig) -> ssl.SSLContext | None:
    """How this device's own listener is asked: it has to show the certificate that is here."""
    pair = RestPair.of(config)
    if pair is None:
        return None
    context = ssl.create_default_context(cafile=str(pair.certificate))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False  # by its loopback address, which is in nobody's certificate
    return context


def rest_scheme(config: NodeConfig) -> str:
    """`http` or `https`."""
    return "https" if config.rest_tls else "http"


def _why(problem: OSError | ValueError) -> str:
    if isinstance(problem, ssl.SSLCertVerificationError):
        return problem.verify_message
    reason = getattr(problem, "reason", None) or getattr(problem, "strerror", None)
    return str(reason or problem).replace("_", " ").lower()
