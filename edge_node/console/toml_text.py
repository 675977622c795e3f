"""Values as TOML has them; the standard library only reads it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def toml_value(value: object) -> str:
    """A value of a configuration as TOML; None, which TOML lacks, as "not set"."""
    if value is None:
        return "not set"
    if isinstance(value, Path):
        return toml_value(str(value))
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {toml_value(one)}" for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(one) for one in value)}]"
    # A TOML basic string is a JSON string, but for DEL, which JSON leaves as it is.
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f").replace("Infinity", "inf")
