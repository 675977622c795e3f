"""What a setting is: made as a field of a model, read from text, told with unit and meaning.

Knows no particular setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, JsonValue


def setting(
    default: object, description: str, *, unit: str = "", reload: bool = False, **bounds: Any
) -> Any:
    """One setting; `reload` says that a running node takes another value on SIGHUP."""
    extra: dict[str, JsonValue] = {"unit": unit, "reload": reload}
    return Field(default=default, description=description, json_schema_extra=extra, **bounds)


def split(value: object) -> object:
    """Several values as environment and command line give them, with commas between."""
    if not isinstance(value, str):
        return value
    return tuple(one.strip() for one in value.split(",") if one.strip())


def pairs(value: object) -> object:
    """Names and values as environment and command line give them: `a=1,b=x`."""
    if not isinstance(value, str):
        return value
    found = (one.partition("=") for one in value.split(",") if one)
    return {key: _number_or_text(text) for key, _, text in found}


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def is_text(text: str) -> bool:
    """Whether it can be sent and written down: the bytes of a file's name may be any."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a setting is, whatever its value.

    Attributes:
        unit: empty for names, switches and plain numbers.
        reload: whether a running node takes another value on SIGHUP.
    """

    description: str
    unit: str
    default: object
    reload: bool


def settings_of(model: type[BaseModel]) -> dict[str, Setting]:
    """The settings that are a model's fields, in their order."""
    found = {}
    for key, field in model.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict), f"{key} is made by setting()"
        found[key] = Setting(
            description=str(field.description),
            unit=str(extra["unit"]),
            default=field.default,
            reload=bool(extra["reload"]),
        )
    return found
