"""`dedgeai keys`: API keys are given out, listed and revoked.

Where a cluster has an authority its list is signed there and handed to one node. Without, the list
is a node's own file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge_node.access import key_file
from edge_node.access.keys import ApiKey, KeyLimits, KeyList, Scope
from edge_node.config import NodeConfig
from edge_node.console.certs import DEFAULT_FOLDER, Authority, has_authority
from edge_node.console.cluster_keys import ClusterKeys
from edge_node.errors import InvalidRequest


def run_keys(options: argparse.Namespace, config: NodeConfig) -> int:
    """Does what the command line says; returns the exit code.

    Raises:
        InvalidRequest: it cannot be done; with what to do.
    """
    names_node = options.config is not None or bool(options.set)
    folder = _authority_folder(options.folder, config, names_node=names_node)
    if folder is None:
        if options.to or options.action == "push":
            raise InvalidRequest(
                f"There is no authority in {DEFAULT_FOLDER}, and nodes take no list from others "
                "that it has not signed: name its folder with --folder, or run dedgeai keys on "
                "each node's device."
            )
        keys: _OneNode | _Cluster = _OneNode(key_file.path_of(config))
    else:
        at = key_file.path_of(config) if names_node else None
        keys = _Cluster(ClusterKeys(Authority(folder)), to=options.to, at=at)
    if options.action == "push":
        keys.hand_over()
        return 0
    if options.action == "list":
        return _list(keys)
    if options.key is None:
        raise InvalidRequest(f"dedgeai keys {options.action} whose? Give a name.")
    return {"add": _add, "limit": _limit, "revoke": _revoke}[options.action](options, keys)


def _authority_folder(given: Path | None, config: NodeConfig, *, names_node: bool) -> Path | None:
    """Where lists are signed; None where they are a node's own."""
    if given is not None or config.tls_folder is not None:
        return given or DEFAULT_FOLDER
    if not names_node and has_authority(DEFAULT_FOLDER):
        return DEFAULT_FOLDER
    return None


class _OneNode:
    """The file of a node whose cluster has no authority."""

    def __init__(self, path: Path) -> None:
        self.where = path

    def read(self) -> KeyList | None:
        return key_file.read(self.where) if self.where.exists() else None

    def change(self, changed: Callable[[KeyList], KeyList]) -> None:
        key_file.change(self.where, changed)

    def hand_over(self) -> None:
        _tell(f"This list is in force where {self.where} is read, and is not passed on to others.")


class _Cluster:
    """The list of a cluster, and which nodes get it first."""

    def __init__(self, keys: ClusterKeys, *, to: list[str], at: Path | None) -> None:
        self._keys = keys
        self._to = to
        self._at = at
        self.where = keys.path

    def read(self) -> KeyList | None:
        return self._keys.read()

    def change(self, changed: Callable[[KeyList], KeyList]) -> None:
        self._keys.change(changed)

    def hand_over(self) -> None:
        if not self.where.exists():
            raise InvalidRequest(f"There are no keys in {self.where}.")
        if self._at is not None:
            self._keys.write_to(self._at)
        self._keys.hand_to(self._to)
        if self._at is None and not self._to:
            _tell(
                f"It is signed in {self.where}. Hand it to any node, which passes it on: dedgeai "
                "keys push --to http://NODE:8080, or copy it to that node's keys_file."
            )


def _add(options: argparse.Namespace, keys: _OneNode | _Cluster) -> int:
    names = [one.strip() for one in options.scopes.split(",") if one.strip()]
    unknown = [one for one in names if one not in set(Scope)]
    if unknown:
        raise InvalidRequest(f"There is no scope {unknown[0]!r}: give some of {', '.join(Scope)}.")
    scopes = [Scope(one) for one in names]
    text = ""

    def changed(known: KeyList) -> KeyList:
        nonlocal text
        longer, text = known.with_new(
            options.key, scopes=scopes, now_unix_s=time.time(), limits=_limits(options)
        )
        return longer

    _change(keys, changed)
    print(text, flush=True)  # before anything can go wrong: it is nowhere else
    keys.hand_over()
    return 0


def _limits(options: argparse.Namespace) -> KeyLimits:
    return KeyLimits(
        requests_per_minute=options.requests_per_minute,
        images_per_day=options.images_per_day,
        open_tasks_max=options.open_tasks,
    )


def _limit(options: argparse.Namespace, keys: _OneNode | _Cluster) -> int:
    _change(keys, lambda known: known.with_limits(options.key, _limits(options)))
    print(f"{options.key} may ask for {_told(_limits(options)) or 'as much as there is room for'}.")
    keys.hand_over()
    return 0


def _list(keys: _OneNode | _Cluster) -> int:
    known = keys.read()
    if known is None:
        print(f"There are no keys in {keys.where}: requests need none.")
        return 0
    for key in known.keys:
        print(_line(key))
    return 0


def _revoke(options: argparse.Namespace, keys: _OneNode | _Cluster) -> int:
    _change(keys, lambda known: known.without(options.key, now_unix_s=time.time()))
    print(f"{options.key} is revoked.")
    keys.hand_over()
    return 0


def _change(keys: _OneNode | _Cluster, changed: Callable[[KeyList], KeyList]) -> None:
    try:
        keys.change(changed)
    except ValueError as problem:
        raise InvalidRequest(f"Nothing is changed: {problem}.") from None


def _tell(sentence: str) -> None:
    """To people; what is printed may be read by a script."""
    print(sentence, file=sys.stderr)


def _line(key: ApiKey) -> str:
    given = _day(key.created_unix_s)
    state = "" if key.revoked_unix_s is None else f"  revoked {_day(key.revoked_unix_s)}"
    limits = _told(key.limits)
    limited = f"  ({limits})" if limits else ""
    return f"{key.id}  {','.join(sorted(key.scopes)):24}  {given}  {key.name}{limited}{state}"


def _told(limits: KeyLimits) -> str:
    told = (
        (limits.requests_per_minute, "requests a minute"),
        (limits.images_per_day, "images a day"),
        (limits.open_tasks_max, "open tasks"),
    )
    return ", ".join(f"{number} {what}" for number, what in told if number is not None)


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))
