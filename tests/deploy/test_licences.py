"""Each package that a device gets has a licence that we may live with, and it is listed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
# What may be shipped beside code of any licence; zeroconf is imported unchanged, and only where
# nodes are to find each other by themselves.
ALLOWED = {
    *("MIT", "MIT-0", "MIT-CMU", "ISC", "0BSD", "Zlib", "CC0-1.0", "BSD-2-Clause", "BSD-3-Clause"),
    *("Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MPL-2.0", "PSF-2.0", "CNRI-Python"),
    "LGPL-2.1-or-later",
}


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "deploy" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_is_of_what_the_lock_names(licences: ModuleType) -> None:
    assert list(licences.written()) == licences.packages()
    assert len(licences.packages()) > 40
    assert licences.page(licences.written()) == licences.PAGE.read_text(), "make lock writes it"


def test_nobody_has_to_open_his_own_code_for_it(licences: ModuleType) -> None:
    wrong = {}
    for package, licence in licences.written().items():
        terms = [one.strip("() ") for one in re.split(r" AND | OR ", licence)]
        if not set(terms) <= ALLOWED:
            wrong[package] = licence
    assert not wrong
