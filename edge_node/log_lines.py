"""What the lines of a process's log look like: text for people, JSON for what gathers them."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any, Literal

from edge_node.trace_context import current

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LogFormat = Literal["text", "json"]
# As they are made: a node's name and a ULID.
_TASK_ID = re.compile(r"(?<![\w.-])[A-Za-z0-9][\w.-]{0,62}-[0-7][0-9A-HJKMNP-TV-Z]{25}(?![\w-])")


class JsonLines(logging.Formatter):
    """One JSON object a line.

    `time` is UTC, `level`, `logger` and `message` as in text, `node` the name of the node where the
    process knows it. `task_id` is the task that a message is about, `task_ids` several of them;
    `trace_id` the trace that it belongs to; `error` a traceback.
    """

    def __init__(self, *, node_id: str = "") -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage()
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if self._node_id:
            line["node"] = self._node_id
        task_ids = list(dict.fromkeys(_TASK_ID.findall(message)))
        if len(task_ids) == 1:
            line["task_id"] = task_ids[0]
        elif task_ids:
            line["task_ids"] = task_ids
        if current.get().parent:
            line["trace_id"] = current.get().parent.split("-")[1]
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)

    def _time(self, unix_s: float) -> str:
        milliseconds = int(unix_s * 1000) % 1000
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(unix_s))}.{milliseconds:03d}Z"


def set_format(form: LogFormat, *, node_id: str = "") -> None:
    """Of all that this process logs from here on."""
    lines = JsonLines(node_id=node_id) if form == "json" else logging.Formatter(TEXT)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(lines)


def set_level(level: str) -> None:
    """Of everything in this process that does not have its own."""
    logging.getLogger().setLevel(level.upper())
