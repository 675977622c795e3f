"""The other nodes and the way to them, and whether this node runs itself.

Owns what is good enough on a wired LAN. Peers are measured one after the other: measured at once
they would share the link.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from edge_node.client.connection import key_header, trusted
from edge_node.config import NodeConfig
from edge_node.console.doctor_checks.finding import Finding
from edge_node.errors import InvalidRequest, OriginUnavailable
from edge_node.peering.link_probe import LinkMeasured, PeerFound, describe_peer, measure_link
from edge_node.peering.tls import NodeTls
from edge_node.rest_tls import own_context, rest_scheme

# A link that carries less has fallen back to 100BASE-TX, is wireless, or is busy.
_SLOW_BIT_S = 100e6
# A Date header is cut to the second, and uvicorn renews it once a second: what it says is up to
# 2 s old, so 1 s is added, and 1 s either way is unknown.
_DATE_LATE_S = 1.0
# More than that for certain: certificates, log lines and the times in answers begin to disagree.
_SKEW_S_MAX = 1.0
_ANSWER_S_MAX = 3.0
# A deployment renews before; the alert comes at half of it.
CERTIFICATE_LEFT_DAYS_MIN = 28.0


@dataclass(frozen=True, kw_only=True)
class OwnNode:
    """What the node of this configuration tells while it runs.

    Attributes:
        holds_rest, holds_grpc: whether it answers at its ports.
        peers: host:port of the peers that it knows, discovered ones too.
        clocks: seconds by which the clock of the day of each peer that tells it is ahead.
    """

    holds_rest: bool
    holds_grpc: bool
    peers: tuple[str, ...]
    clocks: Mapping[str, float]


def certificate(config: NodeConfig) -> tuple[NodeTls | None, list[Finding]]:
    """What this node proves with who it is, and how good that is."""
    try:
        tls = NodeTls.of(config)
    except InvalidRequest as error:
        remedy = f"dedgeai certs issue {config.node_id}, or deploy again"
        return None, [Finding(check="tls", level="fail", seen=error.message, remedy=remedy)]
    if tls is None:
        return None, []
    left_days = (tls.expires_unix_s() - time.time()) / 86_400
    seen = f"the certificate of {config.node_id} is good for {left_days:.0f} days"
    if left_days < CERTIFICATE_LEFT_DAYS_MIN:
        remedy = "dedgeai certs rotate, and the new files to the devices"
        return tls, [Finding(check="tls", level="warn", seen=seen, remedy=remedy)]
    return tls, [Finding(check="tls", level="ok", seen=seen)]


async def ask_own_node(config: NodeConfig, *, tls: NodeTls | None = None) -> OwnNode:
    """Looks for it at both its ports."""
    rest = f"{rest_scheme(config)}://{_reachable(config.rest_host)}:{config.rest_port}"
    answered = None
    with contextlib.suppress(OSError):  # no certificate there: the check of settings says so
        async with _http(own_context(config)) as http:
            answered = await _ask(http, rest)
    try:
        found: PeerFound | None = await describe_peer(
            f"{_reachable(config.grpc_host)}:{config.grpc_port}", tls=tls
        )
    except OriginUnavailable:
        found = None
    own = answered if answered and answered.node_id == config.node_id else None
    return OwnNode(
        holds_rest=own is not None,
        holds_grpc=found is not None and found.node_id == config.node_id,
        peers=own.peers if own else (),
        clocks=own.clocks if own else {},
    )


async def examine_peers(
    node_id: str,
    configured: Sequence[str],
    met: Sequence[str] = (),
    *,
    clocks: Mapping[str, float] | None = None,
    tls: NodeTls | None = None,
) -> list[Finding]:
    """Findings on every peer of node `node_id`, its link and its clock.

    Args:
        node_id: of this node.
        configured: host:port of each peer that the operator named.
        met: those that the running node knows; one may be a configured node by another name.
        tls: what this node proves with who it is, where it has to.
        clocks: by how much the running node finds each peer's clock ahead, by name.
    """
    addresses = list(dict.fromkeys((*configured, *met)))
    if not addresses:
        return [Finding(check="peer", level="skipped", seen="no peers are known")]
    findings: list[Finding] = []
    known = {node_id: "this node"}
    for address in addresses:
        try:
            link = await measure_link(address, tls=tls)
        except OriginUnavailable as error:
            findings.append(_unreachable(address, error.message))
            continue
        if address not in configured and link.peer.node_id in known:
            continue
        twin = known.setdefault(link.peer.node_id, address)
        findings.append(_named(address, link, twin="" if twin == address else twin))
        findings.append(_bandwidth(address, link))
        findings.append(await _clock(address, link.peer, clocks or {}))
    return findings


def _unreachable(address: str, message: str) -> Finding:
    host, _, port = address.rpartition(":")
    remedy = f'nc -zv {host} {port}; on {host}: dedgeai health, grpc_host = "0.0.0.0", firewall'
    return Finding(check="peer", level="fail", seen=message, remedy=remedy)


def _named(address: str, link: LinkMeasured, *, twin: str) -> Finding:
    peer = link.peer
    seen = f"{address} is {peer.node_id}, {peer.version}, serves {peer.model or 'nothing yet'}, "
    seen += f"{1e3 * link.round_trip_s:.1f} ms away"
    if not twin:
        return Finding(check="peer", level="ok", seen=seen)
    remedy = "a node_id of its own in each configuration, and no node among its own peers"
    return Finding(check="peer", level="fail", seen=f"{seen}, and so is {twin}", remedy=remedy)


def _bandwidth(address: str, link: LinkMeasured) -> Finding:
    host = address.rpartition(":")[0]
    route = f"ip -o route get $(getent ahostsv4 {host} | awk 'NR==1{{print $1}}')"
    remedy = f"ethtool $({route} | sed 's/.* dev \\([^ ]*\\).*/\\1/') | grep Speed, then the cable"
    if link.sent_bit_s is None:
        seen = f"to {address} too little to be measured"
        return Finding(check="bandwidth", level="warn", seen=seen, remedy=remedy)
    seen = f"{link.sent_bit_s / 1e6:.0f} Mbit/s to {address}"
    if link.sent_bit_s >= _SLOW_BIT_S:
        return Finding(check="bandwidth", level="ok", seen=seen)
    return Finding(check="bandwidth", level="warn", seen=seen, remedy=remedy)


async def _clock(address: str, peer: PeerFound, clocks: Mapping[str, float]) -> Finding:
    if peer.node_id in clocks:
        return judged_skew(peer.node_id, clocks[peer.node_id], known_to_s=0.0)
    # By the name that reached it, which may be another than the peer knows itself by.
    said = urlsplit(peer.rest_url)
    url = f"{said.scheme}://{address.rpartition(':')[0]}:{said.port}"
    async with _http() as http:
        answered = await _ask(http, url)
    if answered is None or answered.node_id != peer.node_id:
        seen = f"{peer.node_id} does not answer at {url}"
        return Finding(check="clock_skew", level="skipped", seen=seen)
    return judged_skew(peer.node_id, answered.skew_s)


def judged_skew(node_id: str, skew_s: float, *, known_to_s: float = _DATE_LATE_S) -> Finding:
    """A finding on a peer's clock that is `skew_s` ahead of ours, known to a Date header's second.

    What nodes tell each other is known to milliseconds.
    """
    if abs(skew_s) - known_to_s <= _SKEW_S_MAX:
        seen = f"{skew_s:+.3f} s to {node_id}"
        if known_to_s:
            seen = f"no difference to {node_id} that a Date header could show"
        return Finding(check="clock_skew", level="ok", seen=seen)
    ahead = "ahead of" if skew_s > 0 else "behind"
    return Finding(
        check="clock_skew",
        level="warn",
        seen=f"{node_id} is {abs(skew_s):.0f} s {ahead} this node",
        remedy="sudo timedatectl set-ntp true, on both",
    )


@dataclass(frozen=True, kw_only=True)
class _Answer:
    node_id: str
    skew_s: float
    peers: tuple[str, ...]
    clocks: Mapping[str, float]


async def _ask(http: httpx.AsyncClient, url: str) -> _Answer | None:
    """What the node at `url` is, how far its clock is before ours, and whom it knows."""
    sent_s = time.time()
    try:
        answer = await http.get(f"{url}/v1/cluster")
        received_s = time.time()
        cluster = answer.json()
        node_id, peers = str(cluster["node"]), tuple(peer["address"] for peer in cluster["peers"])
        clocks = {
            str(peer["node"]): float(peer["clock_ahead_s"])
            for peer in cluster["peers"]
            if peer.get("clock_ahead_s") is not None
        }
        date_s = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None
    skew_s = date_s + _DATE_LATE_S - (sent_s + received_s) / 2
    return _Answer(node_id=node_id, skew_s=skew_s, peers=peers, clocks=clocks)


def _http(context: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    verify = trusted() if context is None else context
    return httpx.AsyncClient(
        timeout=_ANSWER_S_MAX, trust_env=False, headers=key_header(), verify=verify
    )


def _reachable(host: str) -> str:
    """The name by which this machine reaches its own listener."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"[{loopback}]" if ":" in loopback and not loopback.startswith("[") else loopback
