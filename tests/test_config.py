"""Settings: where they come from, and that a wrong one names itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.config import load_config
from edge_node.errors import InvalidRequest


def test_file_then_environment_then_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.toml"
    path.write_text('node_id = "kitchen"\nrest_port = 1\nlease_s = 9.0\npeers = ["a:1"]\n')
    monkeypatch.setenv("DEDGEAI_REST_PORT", "2")
    monkeypatch.setenv("DEDGEAI_PEERS", "b:1,c:1")
    config = load_config(path, {"lease_s": "7", "policy": None})
    assert (config.node_id, config.rest_port, config.lease_s) == ("kitchen", 2, 7.0)
    assert config.peers == ("b:1", "c:1")
    assert config.policy == "slow_server_aware"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"lease": 5}, "Did you mean lease_s?"),
        ({"rest_port": 70000}, "rest_port"),
        ({"node_id": "a b"}, "node_id"),
        ({"grpc_host": "0.0.0.0"}, "allow_insecure_peering = true"),
        ({"lease_s": 0.6}, "at least twice heartbeat_s"),
    ],
)
def test_a_wrong_setting_says_what_to_do(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load_config(None, overrides)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no configuration file"):
        load_config(tmp_path / "absent.toml", {})
    broken = tmp_path / "broken.toml"
    broken.write_text("node_id = ")
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        load_config(broken, {})
