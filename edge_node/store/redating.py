"""Times that are stored move with a clock that jumped between two lives of a node.

Owns what is moved, and that it is moved once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_node.domain import TaskRecord

# KEYS: redated, then sorted sets by a unix second
# ARGV: jump, term, seconds
# All at once or not at all: a node that ends in the middle moves nothing twice.
REDATE = """
local last = redis.call('HMGET', KEYS[1], 'jump', 'term')
if last[1] == ARGV[1] then return tonumber(last[2]) end
for key = 2, #KEYS do
  local found = redis.call('ZRANGE', KEYS[key], 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local moved = string.format('%.17g', tonumber(found[i + 1]) + tonumber(ARGV[3]))
    redis.call('ZADD', KEYS[key], moved, found[i])
  end
end
redis.call('HSET', KEYS[1], 'jump', ARGV[1], 'term', ARGV[2])
return tonumber(ARGV[2])
"""


@dataclass(frozen=True, kw_only=True)
class Redating:
    """A jump of the clock between two lives, which open tasks of terms before that one move by."""

    shift_s: float
    before_term: int


def redated(record: TaskRecord, redating: Redating | None) -> TaskRecord:
    """The record as if it had been written by a clock that had jumped before."""
    task = record.task
    if redating is None or task.term >= redating.before_term:
        return record
    until_unix_s = task.deadline_unix_s
    moved = replace(
        task,
        created_unix_s=task.created_unix_s + redating.shift_s,
        deadline_unix_s=None if until_unix_s is None else until_unix_s + redating.shift_s,
    )
    return replace(record, task=moved)
