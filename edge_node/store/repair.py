"""What a node does about its store's damaged files at its start, and its operator by command.

Owns the words; what is damaged and how it is mended is `append_only.py`'s.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_node.errors import StoreUnavailable
from edge_node.store.append_only import DamagedStore, Mended, holds_nothing, mend
from edge_node.store.embedded_valkey import can_be_read

log = logging.getLogger(__name__)


def mend_store(data_folder: Path, *, everything: bool = False, lived: bool = False) -> Mended:
    """Mends the embedded store of a node that does not run, and says in the log what was lost.

    Args:
        data_folder: the node's.
        everything: by the operator's word, whatever it costs.
        lived: whether the node has lived on this folder before; then its store holds something.

    Raises:
        StoreUnavailable: only an operator may mend it, and how.
    """
    store_folder = data_folder / "store"
    try:
        was_empty = holds_nothing(store_folder)
        is_base = can_be_read if everything else None
        mended = mend(store_folder, everything=everything, is_base=is_base)
    except DamagedStore as problem:
        raise StoreUnavailable(
            f"The task store is damaged: {problem}. `dedgeai store-repair`, with this node's "
            "settings, cuts out what cannot be read, keeps the file as it was and names the tasks "
            "that are lost."
        ) from problem
    except OSError as problem:
        raise StoreUnavailable(
            f"The files of the task store cannot be mended: {problem}. Look at the disk of "
            f"{data_folder}."
        ) from problem
    if lived and was_empty:
        log.error(
            "the store in %s holds nothing, though this node has lived on %s: unless it had just "
            "been rewritten, the tasks that it knew are lost",
            store_folder,
            data_folder,
        )
    for sentence in mended.sentences:
        log.error("%s", sentence)
    if mended.sentences:
        named = ", ".join(mended.lost_task_ids) or "none that can be named"
        log.error("tasks whose latest state was in it: %s", named)
    return mended
