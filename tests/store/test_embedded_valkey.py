from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from edge_node.errors import StoreUnavailable
from edge_node.store.embedded_valkey import valkey_command, wait_until_ready
from tests.store.valkey_process import ValkeyProcess


def test_a_socket_path_that_the_kernel_refuses_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose a shorter data"):
        valkey_command(tmp_path, tmp_path / ("s" * 108))


def test_a_server_that_is_not_there_is_not_waited_for_long(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="did not answer"):
        asyncio.run(wait_until_ready(Path("no-such-socket"), 0.05))


@pytest.mark.system
def test_the_server_syncs_every_write_and_listens_on_its_socket_only(
    valkey: ValkeyProcess,
) -> None:
    with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
        configured = client.config_get("*")
    assert configured["appendfsync"] == "always"
    assert configured["appendonly"] == "yes"
    assert configured["save"] == ""
    assert configured["maxmemory-policy"] == "noeviction"
    assert configured["port"] == "0"
    assert valkey.socket_path.stat().st_mode & 0o777 == 0o600
