"""A value of any word of domain.py in which no field is what it would be if nobody set it.

For what is coded and decoded: a field that somebody adds and does not code comes back as its
default, and the test that compares the two fails without being told of the field.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

Value = TypeVar("Value")


# What the rules of messages let pass in fields that cannot hold just anything, wherever they are.
PLAUSIBLE: dict[str, object] = {
    "id": "orin-a-01J3",
    "task_id": "orin-a-01J2",
    "job_id": "orin-a-01J1",
    "node_id": "orin-b",
    "origin": "orin-a",
    "executor": "orin-c",
    "learner": "orin-d",
    "source": "orin-f",
    "target": "orin-g",
    "taker": "orin-h",
    "cluster_name": "lab",
    "rest_url": "http://orin-b:8080",
    "grpc_address": "orin-b:9080",
    "image_format": "webp",
    "format": "jpeg",
    "init_image_sha256": "ab" * 32,
    "sha256": "cd" * 32,
    "drawing_sha256": "ab" * 32,
    "dtype": "float32",
    "helped_by": "orin-f",
    "gpu_load": 0.5,
    "strength": 0.25,
    "strength_default": 0.75,
    "code": "seen",
    "steps": 64,
    "dispatches_seen": {"orin-e": (5, 6)},
    "keys": (7, "ef" * 32),
    "key_use": (("ab12", 20_000, 8, 9),),
}


def filled(kind: type[Value], **fixed: object) -> Value:
    """A `kind` whose every field differs from its default and from the empty value of its type.

    `fixed` are fields that cannot hold just anything, such as names that others look up.
    """
    value: Value = _filled(kind, numbers=itertools.count(2), fixed=fixed)
    return value


def _filled(kind: Any, *, numbers: Iterator[int], fixed: dict[str, object]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {
        field.name: fixed.get(field.name, _plausible(hints[field.name], field, numbers))
        for field in dataclasses.fields(kind)
    }
    made = kind(**fields)
    for field in dataclasses.fields(kind):
        assert getattr(made, field.name) != field.default, f"{field.name} is its default"
        assert fields[field.name] or field.name in fixed, f"{field.name} is empty"
    return made


def _plausible(hint: Any, field: dataclasses.Field[Any], numbers: Iterator[int]) -> Any:
    value = _value(hint, field, numbers)
    same_type = type(PLAUSIBLE.get(field.name)) is type(value)
    return PLAUSIBLE[field.name] if same_type else value


def _value(hint: Any, field: dataclasses.Field[Any], numbers: Iterator[int]) -> Any:
    while hasattr(hint, "__supertype__"):  # of a NewType
        hint = hint.__supertype__
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = (one for one in arguments if one is not type(None))
        return _value(hint, field, numbers)
    if origin is typing.Literal:
        return arguments[-1]
    if origin is tuple:
        arguments = arguments[:1] * 2 if arguments[-1] is Ellipsis else arguments
        return tuple(_value(one, field, numbers) for one in arguments)
    if origin is dict:
        return {_value(arguments[0], field, numbers): _value(arguments[1], field, numbers)}
    if issubclass(hint, tuple):  # a named one, of numbers
        return hint(*(next(numbers) for _ in typing.get_type_hints(hint)))
    if dataclasses.is_dataclass(hint):
        return _filled(hint, numbers=numbers, fixed={})
    if issubclass(hint, enum.Enum):
        return next(one for one in reversed(hint) if one != field.default)
    number = next(numbers)
    made = {bool: True, int: number, float: number + 0.5, str: f"{field.name} {number}"}
    return made[hint] if hint in made else str(number).encode()
