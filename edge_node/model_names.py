"""Under which name a worker serves its model, as its settings and files have it.

The node knows it from here before the worker has loaded anything, and the worker serves by it.
"""

from __future__ import annotations

from pathlib import Path

EMULATED = "sd3-medium-emulated"
TINY = "tiny-sd3"


def name_of(path: Path) -> str:
    """Of a model's folder or file, where nobody names it otherwise."""
    # A file in a hub's cache is a link whose target is named by its hash.
    named = path.absolute()
    return named.stem if named.is_file() else named.resolve().name


def served_name(*, engine: str, model: Path | None, model_name: str | None) -> str:
    """Of a worker with these settings."""
    if model_name is not None:
        return model_name
    if engine == "emulated":
        return EMULATED
    return TINY if model is None else name_of(model)
