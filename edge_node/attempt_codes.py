"""Codes with which attempts end that others decide by: of an executor to an origin, and of a task.

Owns the words alone; what follows from each is the lifecycle's.
"""

from __future__ import annotations

# Codes of an attempt whose worker process ended, or had to be ended, while it drew this one: alone,
# or with others, one of which may be at fault.
WORKER_DIED = "worker_died"
WORKER_DIED_SHARED = "worker_died_shared"
# Of one whose executor could not be told of it, or heard no longer.
PEER_UNREACHABLE = "peer_unreachable"
# Code of an attempt whose executor is about to stop: it is to go on elsewhere.
HANDED_OVER = "handed_over"
# Codes of tasks that were tried and given up: an operator can list and retry them.
DEAD_LETTER_CODES = frozenset({"poisoned", "attempts_exhausted", "moderation_unavailable"})
