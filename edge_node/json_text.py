"""Reading JSON that may be anything: a file that was garbled, a store's value, another's answer."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str | bytes | bytearray) -> Any:
    """What it says; raises ValueError where that is nothing, however it is not."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
