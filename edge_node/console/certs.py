"""`dedgeai certs`: the authority of a cluster, and the certificates that it gives to nodes.

Owns a folder: `authority.key` and `authority.pem` (what nodes trust, the newest authority first),
and for each node a folder `nodes/<node id>` that is its `tls_folder`. Keys are written for their
owner only, each file in one go; a node keeps its former ones until the new ones go together.
cryptography is imported here alone: it is an extra, and no node needs it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_node.access.signed_list import LIST_NAME, joined, list_uri
from edge_node.errors import InvalidRequest
from edge_node.peering.tls import (
    ANY_NODE,
    AUTHORITIES,
    CERTIFICATE,
    KEY,
    node_uri,
    server_name,
)

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DEFAULT_FOLDER = Path("certs")
AUTHORITY_DAYS = 3650
# Clocks of devices may be behind.
_BEFORE = datetime.timedelta(hours=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_AUTHORITY, _AUTHORITY_KEY = "authority.pem", "authority.key"


def run_certs(options: argparse.Namespace) -> int:
    """Does what the command line says; returns the exit code.

    A new authority takes three turns, each with the files brought to every node after it: begin it
    (`--authority new`), renew the certificates, and trust it alone (`--authority only-new`).

    Raises:
        InvalidRequest: with what to do instead.
    """
    folder: Path = options.folder
    if options.action == "init":
        Authority.begin(folder, cluster_name=options.cluster)
        print(f"The authority of {options.cluster} is in {folder}: keep its key secret.")
        return 0
    authority = Authority(folder)
    if options.action == "rotate" and options.authority == "new":
        authority.renew_itself()
        _sign_keys_again(authority)
        print("Bring ca.pem to every node; then rotate the certificates.")
        return 0
    if options.action == "rotate" and options.authority == "only-new":
        authority.forget_former()
        print("Bring ca.pem to every node: the former authority is good no more.")
        return 0
    if options.action == "issue" and not options.node_ids:
        raise InvalidRequest("Name the nodes: dedgeai certs issue NODE_ID ...")
    for node_id in options.node_ids or authority.node_ids:
        made = authority.issue(node_id, days=options.days, hosts=options.host)
        print(f"{made}: tls_folder of {node_id}, for it alone")
    return 0


def has_authority(folder: Path) -> bool:
    """Whether an authority is in a folder."""
    return (folder / _AUTHORITY_KEY).exists()


def _sign_keys_again(authority: Authority) -> None:
    from edge_node.console.cluster_keys import ClusterKeys

    if ClusterKeys(authority).sign_again():
        print("The list of API keys is signed anew: once every node has that ca.pem, hand it over")
        print(f"with: dedgeai keys push --folder {authority.folder} --to http://NODE:8080")


class Authority:
    """The authority in a folder.

    Raises:
        InvalidRequest: there is none, or cryptography is not installed.
    """

    def __init__(self, folder: Path) -> None:
        _require_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

        self.folder = folder
        try:
            key = serialization.load_pem_private_key(
                (folder / _AUTHORITY_KEY).read_bytes(), password=None
            )
            self._trusted = x509.load_pem_x509_certificates((folder / _AUTHORITY).read_bytes())
        except (OSError, ValueError) as problem:
            raise InvalidRequest(
                f"There is no authority in {folder} ({problem}). Make one with: dedgeai certs init "
                f"--folder {folder}."
            ) from None
        assert isinstance(key, EllipticCurvePrivateKey), "authorities made here have such keys"
        self._key: EllipticCurvePrivateKey = key

    @classmethod
    def begin(cls, folder: Path, *, cluster_name: str) -> Authority:
        """Makes the authority of a cluster.

        Raises:
            InvalidRequest: there is one already, whose nodes would no longer be known.
        """
        _require_cryptography()
        _check_name(cluster_name)
        if has_authority(folder):
            raise InvalidRequest(
                f"There is an authority in {folder} already. Renew it with: dedgeai certs rotate "
                "--authority new, or choose another folder."
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, certificate = _new_authority(cluster_name)
        _write(folder / _AUTHORITY_KEY, _key_pem(key), mode=0o600)
        _write(folder / _AUTHORITY, _pem(certificate), mode=0o644)
        return cls(folder)

    @property
    def cluster_name(self) -> str:
        """Of which cluster it is."""
        from cryptography.x509.oid import NameOID

        named = self._trusted[0].subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        return str(named[0].value)

    @property
    def node_ids(self) -> list[str]:
        """Nodes that it has given a certificate to."""
        return sorted(path.name for path in (self.folder / "nodes").glob("*") if path.is_dir())

    def issue(self, node_id: str, *, days: int, hosts: Sequence[str] | None = None) -> Path:
        """Makes a key and a certificate for a node; returns the folder that is its tls_folder.

        `hosts` are names and addresses by which clients reach its REST; those that its certificate
        has already, if not given.

        Raises:
            InvalidRequest: a name is none, or the days are.
        """
        _check_name(node_id)
        hosts = self.hosts(node_id) if hosts is None else hosts
        if not 1 <= days <= AUTHORITY_DAYS:
            raise InvalidRequest(f"--days is {days}; it may be 1 to {AUTHORITY_DAYS}.")
        folder = self.folder / "nodes" / node_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, certificate = self._certified_node(node_id, days=days, hosts=hosts)
        self._write_trusted(folder)
        if (self.folder / LIST_NAME).exists():
            _write(folder / LIST_NAME, (self.folder / LIST_NAME).read_bytes(), mode=0o644)
        _write(folder / KEY, _key_pem(key), mode=0o600)
        _write(folder / CERTIFICATE, _pem(certificate), mode=0o644)
        return folder

    def hosts(self, node_id: str) -> list[str]:
        """By which clients reach the node, as its certificate says."""
        from cryptography import x509

        try:
            pem = (self.folder / "nodes" / node_id / CERTIFICATE).read_bytes()
        except FileNotFoundError:
            return []
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = names.get_values_for_type(x509.DNSName)
        addresses = map(str, names.get_values_for_type(x509.IPAddress))
        return [*(one for one in dns if not one.endswith(ANY_NODE)), *addresses]

    def left_days(self, node_id: str) -> float:
        """For how long a node's certificate is good yet; 0 where it has none."""
        from cryptography import x509

        try:
            pem = (self.folder / "nodes" / node_id / CERTIFICATE).read_bytes()
        except FileNotFoundError:
            return 0.0
        left = x509.load_pem_x509_certificate(pem).not_valid_after_utc - _now()
        return left.total_seconds() / 86_400

    def renew_itself(self) -> None:
        """Begins a new authority, trusted beside the former; certificates are renewed after it."""
        key, certificate = _new_authority(self.cluster_name)
        self._trusted = [certificate, *self._trusted]
        self._key = key
        _write(self.folder / _AUTHORITY_KEY, _key_pem(key), mode=0o600)
        self._tell_trusted()

    def forget_former(self) -> None:
        """Trusts the newest authority alone: certificates of a former one are good no more."""
        self._trusted = self._trusted[:1]
        self._tell_trusted()

    def tell_keys(self) -> None:
        """Puts the signed list of API keys beside every node's certificate."""
        listed = (self.folder / LIST_NAME).read_bytes()
        for node_id in self.node_ids:
            # No secret: nobody makes a key of it.
            _write(self.folder / "nodes" / node_id / LIST_NAME, listed, mode=0o644)

    def _tell_trusted(self) -> None:
        _write(self.folder / _AUTHORITY, b"".join(map(_pem, self._trusted)), mode=0o644)
        for node_id in self.node_ids:
            self._write_trusted(self.folder / "nodes" / node_id)

    def _write_trusted(self, folder: Path) -> None:
        _write(folder / AUTHORITIES, b"".join(map(_pem, self._trusted)), mode=0o644)

    @property
    def authorities(self) -> str:
        """PEM of what nodes trust."""
        return b"".join(map(_pem, self._trusted)).decode()

    def sign_keys(self, listed: bytes) -> bytes:
        """The list of API keys with the signature that nodes look for: `access.signed_list`."""
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        uri = list_uri(self.cluster_name, hashlib.sha256(listed).hexdigest())
        key, certificate = self._certified(
            "list of API keys",
            names=[x509.UniformResourceIdentifier(uri)],
            # As it is shown to who trusts the authority; nobody calls with it.
            uses=[ExtendedKeyUsageOID.SERVER_AUTH],
            days=AUTHORITY_DAYS,
        )
        return joined(listed, _key_pem(key) + _pem(certificate))

    def _certified_node(
        self, node_id: str, *, days: int, hosts: Sequence[str]
    ) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        names = [
            x509.UniformResourceIdentifier(node_uri(self.cluster_name, node_id)),
            x509.DNSName(ANY_NODE),
            x509.DNSName(server_name(node_id)),
            *map(_named, hosts),
        ]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._certified(node_id, names=names, uses=uses, days=days)

    def _certified(
        self,
        subject: str,
        *,
        names: list[x509.GeneralName],
        uses: list[x509.ObjectIdentifier],
        days: int,
    ) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._trusted[0]
        end = min(_now() + datetime.timedelta(days=days), issuer.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(self.cluster_name, subject))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - _BEFORE)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        return key, builder.sign(self._key, hashes.SHA256())


def _new_authority(cluster_name: str) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(cluster_name, f"authority of {_now():%Y-%m-%d %H:%M:%S}")
    uses = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _BEFORE)
        .not_valid_after(_now() + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(uses, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def _subject(cluster_name: str, name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_name),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """In the place of what is there, which whoever reads it meanwhile has whole."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=mode)
    beside.write_bytes(content)
    beside.replace(path)


def _named(host: str) -> x509.GeneralName:
    """A host as a certificate has it; raises InvalidRequest."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host) or host.endswith(ANY_NODE):
        raise InvalidRequest(f"--host {host!r} is neither a host's name nor an address.")
    return x509.DNSName(host)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name: letters, digits, _, . and -, 63 at most.")


def _require_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise InvalidRequest(
            "Certificates are made with cryptography: install dedgeai[certs] on the machine that "
            "deploys. No node needs it."
        )
