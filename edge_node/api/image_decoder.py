"""A large upload decoded in a process of its own, which is this module as a program.

Owns that process: its memory goes back to the system with its end, a decoder that a damaged file
crashes takes nothing with it, and the kernel ends it, not the node, when memory runs out. Its
arguments are width, height, the field's name and what is read of it. The upload is the file on
standard input, and the PNG goes out on standard output, or a sentence on standard error with
`REFUSED`; `NO_MEMORY` says that the system gave none.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from pathlib import Path
from typing import IO, cast

from edge_node.api import init_image
from edge_node.api.init_image import Reading
from edge_node.errors import AdmissionRefused, InvalidRequest

REFUSED, NO_MEMORY = 65, 75
# Bounds a decoder that never ends; 2^26 pixels take some seconds.
_PROCESSOR_S_MAX = 60
_AGAIN_S = 1.0


async def png_of_size(
    file: IO[bytes], *, size_px: tuple[int, int], param: str, reading: Reading = "picture"
) -> bytes:
    """As init_image.png_of_size, in a process of its own.

    Raises:
        InvalidRequest: naming `param`; the image is damaged, or its decoder crashed or never ended.
        AdmissionRefused: the system had no memory for it.
    """
    file.flush()
    file.seek(0)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(size_px[0]), str(size_px[1]), param, reading),
        stdin=file.fileno(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        png, said = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode == 0:
        return png
    if process.returncode == REFUSED:
        raise InvalidRequest(said.decode(errors="replace"), param=param)
    if process.returncode in (NO_MEMORY, -signal.SIGKILL):
        raise AdmissionRefused(
            f"This node has no memory to decode `{param}` now. Come back after the time in "
            "Retry-After, or send a smaller image.",
            retry_after_s=_AGAIN_S,
        )
    if process.returncode is not None and process.returncode < 0:
        why = signal.Signals(-process.returncode).name
    else:
        why = said.decode(errors="replace").strip().rpartition("\n")[2]
    raise InvalidRequest(
        f"`{param}` cannot be read: its decoder ended with {why}. Save the image anew as a plain "
        "PNG or JPEG.",
        param=param,
    )


def main(width: str, height: str, param: str, reading: str) -> int:
    """Decodes one upload."""
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_S_MAX, _PROCESSOR_S_MAX + 1))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        png = init_image.png_of_size(
            sys.stdin.buffer,
            size_px=(int(width), int(height)),
            param=param,
            reading=cast(Reading, reading),
        )
    except InvalidRequest as refusal:
        sys.stderr.write(refusal.message)
        return REFUSED
    except MemoryError:
        return NO_MEMORY
    sys.stdout.buffer.write(png)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
