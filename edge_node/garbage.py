"""How often Python's collector looks for cycles in a process that serves requests."""

from __future__ import annotations

import gc

# New objects that can hold others, beyond those that went, before it looks at them: some hundred
# requests' worth, a few MB. A request leaves no cycles behind, or few.
NEW_OBJECTS_MAX = 20_000


def collect_seldom() -> None:
    """To be called once all is there that stays: it is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_MAX, *gc.get_threshold()[1:])
