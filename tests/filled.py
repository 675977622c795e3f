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


def filled(kind: type[Value], **fixed: object) -> Value:
    """A `kind` whose every field differs from its default and from the empty value of its type.

    `fixed` are fields that cannot hold just anything, such as names that others look up.
    """
    value: Value = _filled(kind, numbers=itertools.count(2), fixed=fixed)
    return value


def _filled(kind: Any, *, numbers: Iterator[int], fixed: dict[str, object]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {
        field.name: fixed.get(field.name, _value(hints[field.name], field, numbers))
        for field in dataclasses.fields(kind)
    }
    made = kind(**fields)
    for field in dataclasses.fields(kind):
        assert getattr(made, field.name) != field.default, f"{field.name} is its default"
        assert fields[field.name] or field.name in fixed, f"{field.name} is empty"
    return made


def _value(hint: Any, field: dataclasses.Field[Any], numbers: Iterator[int]) -> Any:
    while hasattr(hint, "__supertype__"):  # of a NewType
        hint = hint.__supertype__
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = (one for one in arguments if one is not type(None))
        return _value(hint, field, numbers)
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
