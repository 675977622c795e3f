"""Whose signature makes a list of keys count, and what else might pass for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.access.keys import UnreadableKeys
from edge_node.access.signed_list import (
    SIGNED_BYTES_MAX,
    NotSigned,
    is_signed,
    joined,
    list_uri,
    verified,
)
from edge_node.console.certs import Authority
from tests.access.signing import CLUSTER, authority_in, listed, signed, verify_by


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_in(tmp_path)


def test_a_list_counts_as_its_authority_signed_it(authority: Authority) -> None:
    keys, _ = listed(7, "alice", "bob")
    text = authority.sign_keys(keys.encode())
    assert is_signed(text)
    found = verify_by(authority)(text)
    assert found.keys == keys
    assert found.held.version == 7
    assert found.text == text
    assert verify_by(authority)(authority.sign_keys(keys.encode())).held == found.held


def test_nothing_of_it_may_be_another(authority: Authority) -> None:
    text = signed(authority, 7, "alice")
    for changed in (
        text.replace(b"alice", b"mallo"),
        text.replace(b'"version": 7', b'"version": 8'),
        b" " + text,
        text.partition(b"\n-----BEGIN")[0],
        joined(text.partition(b"\n-----BEGIN")[0], b"-----BEGIN RUBBISH-----\n"),
        joined(text.partition(b"\n-----BEGIN")[0], b"-----BEGIN X" * 1000),
        b"",
        text + b"\n" * SIGNED_BYTES_MAX,
    ):
        with pytest.raises(NotSigned):
            verify_by(authority)(changed)
    other = signed(authority, 7, "bob")
    swapped = text.partition(b"\n-----BEGIN")[0] + other[other.index(b"\n-----BEGIN") :]
    with pytest.raises(NotSigned, match="not as it stands"):
        verify_by(authority)(swapped)


def test_nobody_else_signs(authority: Authority, tmp_path: Path) -> None:
    keys, _ = listed(7, "alice")
    stranger = authority_in(tmp_path / "other")
    with pytest.raises(NotSigned, match="its signature is not good"):
        verify_by(authority)(stranger.sign_keys(keys.encode()))
    with pytest.raises(NotSigned, match="another cluster"):
        verified(
            authority.sign_keys(keys.encode()),
            authorities=authority.authorities,
            cluster_name="other",
        )


def test_a_nodes_certificate_signs_nothing(authority: Authority) -> None:
    """Neither by its own name, nor by one that it gives itself."""
    import hashlib

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    folder = authority.issue("a", days=30)
    text = listed(7, "alice")[0].encode()
    key_pem, node_pem = (folder / "node.key").read_bytes(), (folder / "node.pem").read_bytes()
    with pytest.raises(NotSigned, match="not as it stands"):
        verify_by(authority)(joined(text, key_pem + node_pem))
    key = load_pem_private_key(key_pem, password=None)
    node = x509.load_pem_x509_certificate(node_pem)
    uri = list_uri(CLUSTER, hashlib.sha256(text).hexdigest())
    forged = (
        x509.CertificateBuilder()
        .subject_name(node.subject)
        .issuer_name(node.subject)
        .public_key(key.public_key())  # type: ignore[arg-type]
        .serial_number(1)
        .not_valid_before(node.not_valid_before_utc)
        .not_valid_after(node.not_valid_after_utc)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    key_only = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for chain in (forged.public_bytes(Encoding.PEM), forged.public_bytes(Encoding.PEM) + node_pem):
        with pytest.raises(NotSigned, match="its signature is not good"):
            verify_by(authority)(joined(text, key_only + chain))


def test_an_encrypted_key_is_no_question_to_the_terminal(authority: Authority) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    text = signed(authority, 7)
    listed_part, _, rest = text.partition(b"\n-----BEGIN PRIVATE KEY")
    certificate = rest[rest.index(b"-----BEGIN CERTIFICATE") :]
    with pytest.raises(NotSigned, match="its signature is not good"):
        verify_by(authority)(joined(listed_part, encrypted + certificate))


def test_a_list_of_a_later_format_is_told_from_a_forged_one(authority: Authority) -> None:
    with pytest.raises(UnreadableKeys, match="format 2"):
        verify_by(authority)(authority.sign_keys(b'{"format": 2}'))


def test_both_authorities_count_until_the_former_is_forgotten(authority: Authority) -> None:
    before = signed(authority, 7)
    authority.renew_itself()
    after = signed(authority, 8)
    assert verify_by(authority)(before).held.version == 7
    authority.forget_former()
    assert verify_by(authority)(after).held.version == 8
    with pytest.raises(NotSigned):
        verify_by(authority)(before)
