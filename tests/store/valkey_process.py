"""A real Valkey for tests, which can be killed, frozen and started again on the same folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from edge_node.store.embedded_valkey import valkey_command, wait_until_ready


class ValkeyProcess:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket_path = folder / "s"
        self.url = f"unix://{self.socket_path}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, environment: Mapping[str, str] | None = None) -> None:
        command = [*valkey_command(self.folder, self.socket_path), *more]
        self._process = subprocess.Popen(command, env={**os.environ, **(environment or {})})
        asyncio.run(wait_until_ready(self.socket_path, 5.0))

    def kill(self) -> None:
        """As a power cut would, but for what was not synced: see forgetful_disk.py."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
