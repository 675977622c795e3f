"""Images that the disk refuses for a while: they wait in memory, and old ones go for them.

Owns how many may wait, and for how long.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from edge_node.domain import Image, TaskId
from edge_node.ports import Images

log = logging.getLogger(__name__)

# Pauses before an image that the disk refuses is written again, and the images that may wait.
STORE_AGAIN_S = (0.05, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
HELD_BYTES_MAX = 64 * 2**20
# So many of its size make room for one.
SHED_IMAGES = 4


class PatientImages:
    """Writes images.

    Args:
        images: their files.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._held_bytes = 0

    async def write(self, task_id: TaskId, image: Image) -> None:
        """Stores an image, which waits in memory while the disk refuses it and old ones go.

        Raises:
            OSError: for too long, or too many wait.
        """
        self._held_bytes += len(image.content)
        try:
            for pause_s in (*STORE_AGAIN_S, None):
                try:
                    await self._images.write(task_id, image)
                    return
                except OSError as error:
                    if pause_s is None or self._held_bytes > HELD_BYTES_MAX:
                        raise
                    log.warning("image of %s is not stored yet: %s", task_id, error)
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        await self._images.shed(SHED_IMAGES * len(image.content))
                    await asyncio.sleep(pause_s)
        finally:
            self._held_bytes -= len(image.content)
