"""`dedgeai keys`: API keys are given out, listed and revoked in the file that nodes read."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from edge_node.access import key_file
from edge_node.access.keys import ApiKey, KeyList, Scope
from edge_node.config import NodeConfig
from edge_node.errors import InvalidRequest


def run_keys(options: argparse.Namespace, config: NodeConfig) -> int:
    """Does what the command line says; returns the exit code.

    Raises:
        InvalidRequest: it cannot be done; with what to do.
    """
    if options.action == "list":
        return _list(config)
    if options.key is None:
        raise InvalidRequest(f"dedgeai keys {options.action} whose? Give a name.")
    return {"add": _add, "revoke": _revoke}[options.action](options, config)


def _add(options: argparse.Namespace, config: NodeConfig) -> int:
    names = [one.strip() for one in options.scopes.split(",") if one.strip()]
    unknown = [one for one in names if one not in set(Scope)]
    if unknown:
        raise InvalidRequest(f"There is no scope {unknown[0]!r}: give some of {', '.join(Scope)}.")
    scopes = [Scope(one) for one in names]
    text = ""

    def changed(keys: KeyList) -> KeyList:
        nonlocal text
        longer, text = keys.with_new(options.key, scopes=scopes, now_unix_s=time.time())
        return longer

    _change(config, changed)
    print(text)
    return 0


def _list(config: NodeConfig) -> int:
    path = key_file.path_of(config)
    if not path.exists():
        print(f"There are no keys in {path}: requests need none.")
        return 0
    for key in key_file.read(path).keys:
        print(_line(key))
    return 0


def _revoke(options: argparse.Namespace, config: NodeConfig) -> int:
    _change(config, lambda keys: keys.without(options.key, now_unix_s=time.time()))
    print(f"{options.key} is revoked.")
    return 0


def _change(config: NodeConfig, changed: Callable[[KeyList], KeyList]) -> None:
    try:
        key_file.change(key_file.path_of(config), changed)
    except ValueError as problem:
        raise InvalidRequest(f"Nothing is changed: {problem}.") from None


def _line(key: ApiKey) -> str:
    given = _day(key.created_unix_s)
    state = "" if key.revoked_unix_s is None else f"  revoked {_day(key.revoked_unix_s)}"
    return f"{key.id}  {','.join(sorted(key.scopes)):24}  {given}  {key.name}{state}"


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))
