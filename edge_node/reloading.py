"""SIGHUP: settings are read again, and what may change goes to the parts that take it.

Owns the settings as they are in force. It decides by `Setting.reload` alone: what needs a restart
keeps its value until then, and settings that are wrong change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_node.config import SETTINGS, NodeConfig
from edge_node.errors import InvalidRequest

log = logging.getLogger(__name__)


class Reloader:
    """The settings in force, and who is to be told of others.

    Args:
        read: gives them as file, environment and command line are now; raises InvalidRequest.
    """

    def __init__(self, read: Callable[[], NodeConfig]) -> None:
        self._read = read
        self._takers: list[Callable[[NodeConfig], None]] = []
        self.config = read()

    def tell(self, taker: Callable[[NodeConfig], None]) -> None:
        """From now on `taker` is given the settings whenever some have changed."""
        self._takers.append(taker)

    def reload(self) -> None:
        """Reads again; whatever is found, the node goes on."""
        try:
            wanted = self._read()
        except InvalidRequest as error:
            log.error("settings stay as they are: %s", error.message)
            return
        former = dict(self.config)
        changed = {key: value for key, value in wanted if value != former[key]}
        taken = {key: value for key, value in changed.items() if SETTINGS[key].reload}
        for key in changed.keys() - taken.keys():
            log.warning("%s has changed and needs a restart", key)
        for key, value in taken.items():
            log.info("%s is %s now, and was %s", key, value, former[key])
        if not changed:
            log.info("settings have been read again: none has changed")
        if taken:
            self.config = self.config.model_copy(update=taken)
            for taker in self._takers:
                taker(self.config)
