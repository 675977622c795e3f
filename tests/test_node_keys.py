"""What a node begins with: keys, or the word of its operator that it needs none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_node.access import key_file
from edge_node.access.keys import ANYBODY, Scope
from edge_node.config_sources import load_config
from edge_node.console.certs import Authority
from edge_node.console.cluster_keys import ClusterKeys
from edge_node.console.configuration import problems
from edge_node.errors import InvalidRequest
from edge_node.node_keys import open_keys
from edge_node.peering.tls import NodeTls


def opened(folder: Path, **settings: Any) -> key_file.KeyFile:
    config = load_config(None, {"data_folder": str(folder), **settings})
    return open_keys(config, NodeTls.of(config))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.11"])
def test_who_listens_for_others_needs_keys_or_says_that_it_is_open(
    tmp_path: Path, host: str
) -> None:
    with pytest.raises(
        InvalidRequest, match=r"dedgeai keys add NAME.*allow_open_rest = true.*127\.0\.0\.1"
    ):
        opened(tmp_path, rest_host=host)
    assert opened(tmp_path, rest_host=host, allow_open_rest=True).client(None) == ANYBODY
    assert opened(tmp_path, rest_host="127.0.0.1").client(None) == ANYBODY
    config = load_config(None, {"data_folder": str(tmp_path), "rest_host": host})
    assert any("allow_open_rest" in problem for problem in problems(config))
    key_file.change(
        tmp_path / "keys.json",
        lambda keys: keys.with_new("alice", scopes={Scope.READ}, now_unix_s=1.0)[0],
    )
    assert opened(tmp_path, rest_host=host).client(None) is None
    assert opened(tmp_path, rest_host=host, allow_open_rest=True).client(None) is None


def test_the_node_itself_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_node.cli", "node", "--set", "rest_host=0.0.0.0"]
    done = subprocess.run(
        [*command, "--set", f"data_folder={tmp_path}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "give one out (dedgeai keys add NAME" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_node_begins_with_the_keys_that_came_with_its_certificate(tmp_path: Path) -> None:
    authority = Authority.begin(tmp_path / "certs", cluster_name="dedgeai")
    first = authority.issue("a", days=1)
    settings = {"node_id": "a", "rest_host": "0.0.0.0", "tls_folder": str(first)}
    with pytest.raises(InvalidRequest, match="where the cluster's authority is"):
        opened(tmp_path / "a", **settings)
    held = ClusterKeys(authority).give_first()
    assert held is not None
    assert held.stat().st_mode & 0o777 == 0o600
    assert ClusterKeys(authority).give_first() is None
    text = held.read_text().strip()
    later = authority.issue("b", days=1)
    for node_id, folder in (("a", first), ("b", later)):
        settings |= {"node_id": node_id, "tls_folder": str(folder)}
        client = opened(tmp_path / node_id, **settings).client(text)
        assert client is not None
        assert client.may(Scope.OPERATE)
    # What its own file holds is greater later, and what comes with the next certificate then.
    (tmp_path / "b").mkdir()
    running = opened(tmp_path / "b", **settings)
    ClusterKeys(authority).change(lambda keys: keys.without("operator", now_unix_s=1.0))
    running.look()
    assert running.client(text) is None
    (later / "keys.json").unlink()
    assert opened(tmp_path / "b", **settings).client(text) is None
