"""An image in the terminal: by kitty's protocol or sixel, else in coloured half blocks.

textual-image asks the terminal which (dedgeai[preview]). Without it, or where output goes to a
file, nothing is shown.
"""

from __future__ import annotations

import io
import logging
import sys

from rich.console import Console

COLUMNS_MAX = 48


def show(content: bytes, console: Console) -> bool:
    """Shows an encoded image; whether it could."""
    # It reads the terminal's answer from standard input.
    if not console.is_terminal or not sys.stdin.isatty():
        return False
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    try:
        from textual_image.renderable import Image

        columns = min(COLUMNS_MAX, console.width)
        console.print(Image(io.BytesIO(content), width=columns, height="auto"))
    except Exception:  # whatever a terminal answers: the image is saved, and a look is an extra
        return False
    return True
