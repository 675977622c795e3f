"""What a node does about its store's damaged files at its start, and its operator by command.

Owns the words; what is damaged and how it is mended is `append_only.py`'s.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_node.errors import StoreUnavailable
from edge_node.store.append_only import DamagedStore, Mended, mend

log = logging.getLogger(__name__)


def mend_store(data_folder: Path, *, everything: bool = False) -> Mended:
    """Mends the embedded store of a node that does not run, and says in the log what was lost.

    Args:
        data_folder: the node's.
        everything: by the operator's word, whatever it costs.

    Raises:
        StoreUnavailable: only an operator may mend it, and how.
    """
    try:
        mended = mend(data_folder / "store", everything=everything)
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
    for sentence in mended.sentences:
        log.error("%s", sentence)
    if mended.sentences:
        named = ", ".join(mended.lost_task_ids) or "none that can be named"
        log.error("tasks whose latest state was in it: %s", named)
    return mended
