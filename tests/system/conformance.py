"""Holds a real node against its OpenAPI document: `python -m tests.system.conformance SECONDS`.

Schemathesis makes requests of all kinds from the document, right and wrong ones, and judges the
answers by it: statuses, types, shapes, headers, keys that are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

from edge_node import cli
from edge_node.client_variables import KEY_VARIABLE
from edge_node.dispatch.front_desk import MEETING_S
from tests.system.local import EMULATED, cluster_of

CONFIG = Path(__file__).parent.parent / "api" / "schemathesis.toml"
# Limits that an operator sets are not in the document, and beyond them is 400. DELETE cancels a
# task, which can be read for as long as any other.
NOT_CHECKED = "positive_data_acceptance,use_after_free"
# Does not end by itself.
ENDLESS = "/v1/events"
QUICK = {**EMULATED, "time_scale": 100_000}


async def judged(folder: Path, *, with_keys: bool, seconds: int) -> tuple[int, str]:
    """Exit status of schemathesis, 0 where nothing is wrong, and what it says."""
    settings, headers = dict(QUICK), []
    if with_keys:
        key = _operators_key(folder / "keys.json")
        settings["keys_file"] = str(folder / "keys.json")
        headers = ["--header", f"Authorization: Bearer {key}"]
        os.environ[KEY_VARIABLE] = key  # for whoever waits for the node
    try:
        async with cluster_of(folder, settings) as cluster:
            # By then it knows whether another node's tasks may be asked for here.
            await asyncio.sleep(MEETING_S)
            return await _run(cluster.urls[0], headers, folder=folder, seconds=seconds)
    finally:
        os.environ.pop(KEY_VARIABLE, None)


async def _run(url: str, headers: list[str], *, folder: Path, seconds: int) -> tuple[int, str]:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"{url}/openapi.json", "--checks", "all", "--exclude-checks", NOT_CHECKED),
        *("--exclude-path", ENDLESS),
        *("--max-time", str(seconds), "--request-timeout", "30", "--warnings", "off"),
        *headers,
        cwd=folder,  # where it keeps what it has found
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await run.communicate()
    assert run.returncode is not None, "it has ended"
    return run.returncode, said.decode(errors="replace")


def _operators_key(file: Path) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert (
            cli.main(
                ["keys", "add", "operator", "--scopes", "operate", "--set", f"keys_file={file}"]
            )
            == 0
        )
    return said.getvalue().strip()


def main() -> int:
    """Judges without keys and with them; 0 where nothing is wrong."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    worst = 0
    for with_keys in (False, True):
        with tempfile.TemporaryDirectory(prefix="conformance") as folder:
            status, said = asyncio.run(judged(Path(folder), with_keys=with_keys, seconds=seconds))
        print(said)
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main())
