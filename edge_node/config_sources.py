"""Where settings come from: a TOML file, then the environment, then the command line.

Each overrides the one before. Owns reading and saying what is wrong; what a setting is and may be
is `config.py`'s. Unknown keys are errors, in the environment too: `DEDGEAI_` is ours.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_node.client_variables import FOR_CLIENTS
from edge_node.config import SETTINGS, NodeConfig
from edge_node.errors import InvalidRequest

ENVIRONMENT_PREFIX = "DEDGEAI_"


class InvalidConfig(InvalidRequest):
    """Settings that no node can run with; `problems` has a sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """Settings, and for each whether it came from default, file, environment or command line."""

    config: NodeConfig
    sources: Mapping[str, str]


def load_config(path: Path | None, overrides: Mapping[str, Any]) -> NodeConfig:
    """As `load`, without where they came from."""
    return load(path, overrides).config


def load(path: Path | None, overrides: Mapping[str, Any]) -> LoadedConfig:
    """Merges file, environment and `overrides` (None values mean: not given).

    Raises:
        InvalidConfig: naming each key at fault, what is wrong with it and the nearest known one.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(SETTINGS, "default")
    for source, found in (
        ("file", {} if path is None else _from_file(path)),
        ("environment", _from_environment()),
        ("command line", given),
    ):
        values |= found
        sources |= dict.fromkeys(found, source)
    config = validated(values, sources=sources, known=tuple(SETTINGS))
    return LoadedConfig(config=config, sources=sources)


def validated(
    values: Mapping[str, Any], *, sources: Mapping[str, str], known: Sequence[str]
) -> NodeConfig:
    """Settings of these values, by default where there is none; only those in `known` may be given.

    Raises:
        InvalidConfig: as `load`.
    """
    problems = [_unknown(key, sources[key], known) for key in values if key not in known]
    try:
        config = NodeConfig(**{key: values[key] for key in values if key in known})
    except ValidationError as error:
        problems += _explained(error, sources)
    if problems:
        raise InvalidConfig(problems)
    return config


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """Settings as the command line gives them.

    Raises:
        InvalidRequest: one is not KEY=VALUE.
    """
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"--set {text} is not KEY=VALUE.")
        overrides[key] = value
    return overrides


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidConfig([f"There is no configuration file {path}."]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig([f"{path} cannot be read: {error}."]) from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig([f"{path} is not valid TOML: {error}."]) from None


def _from_environment() -> dict[str, str]:
    """Variables that are not empty: compose files pass on what nobody has set as nothing."""
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): text
        for name, text in os.environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and text and name not in FOR_CLIENTS
    }


def _unknown(key: str, source: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    if key in SETTINGS:
        return f"{key} ({source}) is not for a worker.{hint}"
    return f"{key} ({source}) is not a setting.{hint}"


def _explained(error: ValidationError, sources: Mapping[str, str]) -> list[str]:
    sentences = []
    for problem in error.errors():
        if not problem["loc"]:  # of several settings together, a line for each
            sentences += problem["msg"].removeprefix("Value error, ").splitlines()
            continue
        key = str(problem["loc"][0])
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        if problem["type"] == "string_pattern_mismatch":
            said = f"it should be {SETTINGS[key].description}"
        sentences.append(f"{key} ({sources[key]}) is {problem['input']!r}: {said}.")
    return list(dict.fromkeys(sentences))
