"""Writes docs/licences.md: under what licence each package is that a device gets.

Run by `make lock`, for the lock says which these are; licences are those of the installed packages'
own metadata. `tests/deploy/test_licences.py` holds that it is whole, and what it allows.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "docker" / "requirements.txt"
PAGE = ROOT / "docs" / "licences.md"
# A device as markers see it.
_DEVICE = {
    "sys_platform": "linux",
    "platform_machine": "aarch64",
    "platform_system": "Linux",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "os_name": "posix",
}
# What metadata says at length, or in another's words.
_SHORT = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "The MIT License (MIT)": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_HEAD = """# Licences

Written by `deploy/licences.py` (`make lock`) from the packages' own metadata: what a device gets,
beside the base image of `docker/Dockerfile.jetson` and its torch (BSD-3-Clause). Versions and
hashes are in `docker/requirements.txt`; an image says what is in it in
`/opt/dedgeai/sbom.cdx.json`. The page brings lit's files (BSD-3-Clause) with their licence.
This project itself is under Apache-2.0; models have licences of their own (docs/models.md).

| package | licence |
|---|---|
"""


def packages() -> list[str]:
    """Names of what the lock gives a device, in their order."""
    found = set()
    for line in LOCK.read_text().splitlines():
        wanted = re.match(r"([A-Za-z0-9][^\\]*==[^\\]*)", line)
        if wanted is not None:
            requirement = Requirement(wanted[1].strip())
            if requirement.marker is None or requirement.marker.evaluate(dict(_DEVICE)):
                found.add(canonicalize_name(requirement.name))
    return sorted(found)


def licence_of(package: str) -> str:
    """As an SPDX expression where it says one; empty where it is not installed, or silent."""
    try:
        told = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if expression := told.get("License-Expression"):
        return str(expression)
    classified = [
        one.rpartition(" :: ")[2]
        for one in told.get_all("Classifier") or []
        if one.startswith("License :: ")
    ]
    # A text instead of a name is no name.
    named = (told.get("License") or "").strip()
    said = [named] if named and "\n" not in named and len(named) < 60 else classified
    return " OR ".join(dict.fromkeys(_SHORT.get(one, one) for one in said))


def page(known: dict[str, str]) -> str:
    """The page; what is not installed here keeps the licence that is `known` already."""
    rows = (f"| {one} | {licence_of(one) or known.get(one, '')} |\n" for one in packages())
    return _HEAD + "".join(rows)


def written() -> dict[str, str]:
    """Package and licence, as the page has them."""
    text = PAGE.read_text() if PAGE.exists() else ""
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (.*) \|$", text, re.MULTILINE)
    return {name: licence for name, licence in rows if name != "package"}


def main() -> int:
    """Writes it; 1 where a licence is not known."""
    PAGE.write_text(page(written()))
    unknown = [name for name, licence in written().items() if not licence]
    for name in unknown:
        print(f"The licence of {name} is not in its metadata: write it into {PAGE}.")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
