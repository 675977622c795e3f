"""How commands end: codes that scripts may rely on, and what is said."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from edge_node import cli
from edge_node.commands import exit_codes
from edge_node.errors import InvalidRequest

DEDGEAI = (sys.executable, "-m", "edge_node.cli")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidRequest("Give one."), 2, "Give one."),
        (FileNotFoundError(2, "No such file or directory", "x.png"), 2, "x.png cannot be used"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (TimeoutError(), 2, "TimeoutError"),
        (ModuleNotFoundError("No", name="cryptography.x509"), 2, "dedgeai[certs]"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), 2, "UTF-8"),
        (MemoryError(), 2, "memory"),
        (httpx.ReadTimeout("", request=httpx.Request("GET", "http://a:1/v1")), 2, "http://a:1/v1"),
        (httpx.RemoteProtocolError("no"), 2, "No node answers"),
        (httpx.InvalidURL("no"), 2, "no node's address"),
        (KeyError("x"), 70, "a fault in dedgeai"),
        (ModuleNotFoundError("No", name="edge_node.nothing"), 70, "a fault in dedgeai"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseException) else "",
)
def test_each_error_has_its_code_and_one_sentence(
    error: BaseException, code: int, said: str
) -> None:
    found, sentence = exit_codes.ending(error)
    assert found == code
    assert said in sentence
    assert "\n" not in sentence
    assert bool(sentence) == bool(said)


def test_codes_are_documented_as_they_are() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    promised = {int(one) for one in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and name[0] != "_"}
    assert promised == codes


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "config", "show"], ["config", "show", "--debug"]):
        assert cli.main([*arguments, "--set", "polcy=local"]) == 2
        complained = capsys.readouterr().err
        assert "Traceback" in complained
        assert complained.splitlines()[-1].startswith("dedgeai: polcy")
    assert cli.main(["config", "show", "--set", "polcy=local"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_who_leaves_ends_it_without_a_word() -> None:
    with subprocess.Popen(
        [*DEDGEAI, "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_ctrl_c_ends_it_without_a_word() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        subprocess.Popen(
            [*DEDGEAI, "status", "--node", f"http://127.0.0.1:{silent.getsockname()[1]}"],
            stderr=subprocess.PIPE,
            # A shell's job in the background has Ctrl-C ignored, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process,
    ):
        silent.settimeout(60.0)
        asked, _ = silent.accept()
        asked.settimeout(60.0)
        with asked:
            assert asked.recv(3) == b"GET"
            process.send_signal(signal.SIGINT)
            _, complained = process.communicate(timeout=60.0)
    assert (process.returncode, complained) == (130, b"")
