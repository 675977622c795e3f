from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.forgetful_disk import ForgetfulDisk
from tests.store.valkey_process import ValkeyProcess


@pytest.fixture
def valkey() -> Iterator[ValkeyProcess]:
    # Not tmp_path: its name would exceed what a Unix socket allows.
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        process = ValkeyProcess(Path(folder))
        process.start()
        yield process
        process.kill()


@pytest.fixture(scope="session")
def forgetful_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the disk that forgets with")
    library = tmp_path_factory.mktemp("forgetful") / "forgetful_disk.so"
    source = Path(__file__).with_name("forgetful_disk.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(library), str(source), "-ldl"], check=True)
    return library


@pytest.fixture
def forgetful_disk(forgetful_library: Path) -> Iterator[ForgetfulDisk]:
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        folder, kept = Path(name) / "d", Path(name) / "kept"
        folder.mkdir()
        kept.mkdir()
        yield ForgetfulDisk(folder, library=forgetful_library, kept=kept)
