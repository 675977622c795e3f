"""A policy that is somebody's own class, named as `package.module:Class`.

Owns how it is found and what it must have; everything that takes the name of a policy takes such a
name as well (`scheduler.registry`, `scheduler.simulator.dispatchers`). docs/own_policy.md shows how
one is written.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

_SPELLING = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# What is called, and with what.
_METHODS = {"decide": "observation", "record": "outcome"}


def is_own(name: str) -> bool:
    """Whether a policy's name is that of a class."""
    return _SPELLING.fullmatch(name) is not None


def own_class(name: str) -> Any:
    """The class of that name, which makes policies by `Class(rng=..., **options)`.

    Raises:
        ValueError: it cannot be had, or is no policy; the sentence says what is missing.
    """
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"{module_name} needs {error.name}, which is not installed") from None
        raise ValueError(
            f"there is no module {error.name}: install it here, or name its folder in PYTHONPATH"
        ) from None
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{module_name} cannot be imported ({said})") from error
    own = getattr(module, class_name, None)
    if own is None:
        there = sorted(one for one in vars(module) if hasattr(getattr(module, one), "decide"))
        raise ValueError(
            f"{module_name} has no {class_name}; "
            + (f"what decides there: {', '.join(there)}" if there else "nothing there decides")
        )
    if not callable(own):
        raise ValueError(f"{name} is no class, but {own!r:.60}")
    missing = [f"{method}({what})" for method, what in _METHODS.items() if not _has(own, method)]
    if missing:
        raise ValueError(f"{name} is no policy: it lacks {' and '.join(missing)}")
    parameters = inspect.signature(own).parameters
    if "rng" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(f"{name} cannot be made with rng=..., its only source of randomness")
    return own


def _has(own: Any, method: str) -> bool:
    return callable(getattr(own, method, None))
