from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from edge_node.errors import StoreUnavailable
from edge_node.store.embedded_valkey import HANG_S, AnswerWatch, valkey_command, wait_until_ready
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


def test_a_silence_counts_while_somebody_looks(valkey: ValkeyProcess) -> None:
    now_s = 100.0
    watched = AnswerWatch(valkey.socket_path, now_s=lambda: now_s)

    async def looked(at_s: float) -> float | None:
        nonlocal now_s
        now_s = at_s
        return await watched.look()

    async def story() -> None:
        assert await looked(100.5) is None
        valkey.freeze()
        try:
            # The process that looks stood still for a minute: that is not the store's silence.
            assert await looked(160.0) is None
            silences = [await looked(160.0 + second) for second in range(1, 7)]
        finally:
            valkey.thaw()
        assert silences[:4] == [None] * 4
        assert silences[-1] is not None
        assert silences[-1] > HANG_S
        watched.began_anew()
        assert await looked(200.0) is None

    asyncio.run(story())
