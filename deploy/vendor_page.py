"""Brings the page's libraries, and what its tests need, from the npm registry: released files.

`python deploy/vendor_page.py` unpacks the versions that stand in each folder's `vendored.json`;
`python deploy/vendor_page.py lit-html@3.3.3` takes another one first. What was taken stands there
with the SHA-256 of each file and the registry's own word for the archive, and
tests/page/test_vendored.py compares. It needs npm, which a node and its tests do not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LISTS = (
    ROOT / "edge_node" / "web" / "vendor" / "vendored.json",
    ROOT / "tests" / "page" / "vendor" / "vendored.json",
)


def fetch(package: str, version: str, folder: Path) -> tuple[Path, str]:
    """The archive of a release, and the integrity of it as npm writes it."""
    packed = subprocess.run(
        ["npm", "pack", f"{package}@{version}", "--json", "--pack-destination", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    (told,) = json.loads(packed.stdout)
    archive = folder / str(told["filename"]).replace("@", "").replace("/", "-")
    digest = hashlib.sha512(archive.read_bytes()).digest()
    integrity = f"sha512-{base64.b64encode(digest).decode()}"
    if told["integrity"] != integrity:
        raise SystemExit(f"{archive.name} is not what the registry says that it is")
    return archive, integrity


def take(entry: dict[str, Any], into: Path) -> None:
    """Unpacks the files of one entry, and notes what they are."""
    with tempfile.TemporaryDirectory() as temporary:
        archive, entry["integrity"] = fetch(entry["package"], entry["version"], Path(temporary))
        shutil.rmtree(into, ignore_errors=True)
        with tarfile.open(archive) as members:
            for name in entry["files"]:
                content = members.extractfile(f"package/{name}")
                if content is None:
                    raise SystemExit(f"{archive.name} has no {name}")
                path = into / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
                entry["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Takes all, in the versions of the lists or those that are named."""
    wanted = dict(argument.rsplit("@", 1) for argument in sys.argv[1:])
    for listed in LISTS:
        entries = json.loads(listed.read_text())
        for entry in entries:
            entry["version"] = wanted.get(entry["package"], entry["version"])
            take(entry, listed.parent / entry["folder"])
        listed.write_text(json.dumps(entries, indent=2) + "\n")


if __name__ == "__main__":
    main()
