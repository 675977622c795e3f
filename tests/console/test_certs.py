"""`dedgeai certs`: what it makes, who may read it, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node import cli
from edge_node.console.certs import Authority
from edge_node.peering.tls import NodeTls


def certs(*arguments: str, folder: Path) -> int:
    try:
        return cli.main(["certs", *arguments, "--folder", str(folder)])
    except SystemExit as end:  # an argument that the parser refuses
        return int(end.code or 0)


def test_an_authority_and_its_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "certs"
    assert certs("init", "--cluster", "lab", folder=folder) == 0
    assert certs("issue", "orin-1", "Orin_2.b", folder=folder) == 0
    assert str(folder / "nodes" / "orin-1") in capsys.readouterr().out
    for node_id in ("orin-1", "Orin_2.b"):
        tls = NodeTls(folder / "nodes" / node_id, node_id=node_id, cluster_name="lab")
        assert tls.material().certificate.startswith(b"-----BEGIN CERTIFICATE")
        assert (folder / "nodes" / node_id / "node.key").stat().st_mode & 0o777 == 0o600
    assert (folder / "authority.key").stat().st_mode & 0o777 == 0o600
    authority = Authority(folder)
    assert authority.node_ids == ["Orin_2.b", "orin-1"]
    assert 89.9 < authority.left_days("orin-1") <= 90.0
    assert authority.left_days("nobody") == 0.0


def test_rotation_renews_all_or_some_and_the_authority_first(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    certs("init", folder=folder)
    certs("issue", "a", "b", folder=folder)

    def files(name: str) -> dict[str, bytes]:
        return {node: (folder / "nodes" / node / name).read_bytes() for node in ("a", "b")}

    before = files("node.pem")
    assert certs("rotate", "b", "--days", "5", folder=folder) == 0
    assert files("node.pem")["a"] == before["a"]
    assert files("node.pem")["b"] != before["b"]
    former, trusted = files("node.pem"), files("ca.pem")
    assert certs("rotate", "--authority", "new", folder=folder) == 0
    assert files("node.pem") == former
    assert all(new.endswith(trusted[node]) for node, new in files("ca.pem").items())
    assert certs("rotate", folder=folder) == 0
    assert files("node.pem")["a"] != former["a"]
    assert certs("rotate", "--authority", "only-new", folder=folder) == 0
    assert files("ca.pem")["a"].count(b"BEGIN") == 1
    for node in ("a", "b"):
        NodeTls(folder / "nodes" / node, node_id=node, cluster_name="dedgeai")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("issue", "a"), "There is no authority in"),
        (("init", "--cluster", "a b"), "is no name"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert certs(*arguments, folder=tmp_path / "certs") == 2
    assert sentence in capsys.readouterr().err


def test_an_authority_is_not_made_twice_nor_for_what_is_no_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    certs("init", folder=folder)
    key = (folder / "authority.key").read_bytes()
    assert certs("init", folder=folder) == 2
    assert (folder / "authority.key").read_bytes() == key
    assert certs("issue", "../x", folder=folder) == 2
    assert certs("issue", "x", "--days", "0", folder=folder) == 2
    said = capsys.readouterr().err
    assert "certs rotate --authority new" in said
    assert "argument --days: '0'" in said
