"""Images side by side with what they are: prompt, device, delay."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from edge_node.console.rest_client import Drawn

TILE_PX = 192
CAPTION_PX = 74
MARGIN_PX = 14
COLUMNS = 6
INK = (30, 34, 40)
FAINT = (105, 112, 122)


def write_contact_sheet(drawn: Sequence[Drawn], path: Path, *, title: str) -> None:
    """Writes a PNG with every image of `drawn`, enlarged without smoothing."""
    images = [d for d in drawn if d.content]
    rows = -(-len(images) // COLUMNS)
    width = COLUMNS * (TILE_PX + MARGIN_PX) + MARGIN_PX
    head_px = 44
    height = head_px + rows * (TILE_PX + CAPTION_PX + MARGIN_PX) + MARGIN_PX
    sheet = Image.new("RGB", (width, height), (250, 250, 248))
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, 14), title, fill=INK, font=ImageFont.load_default(18))
    small = ImageFont.load_default(12)
    for index, item in enumerate(images):
        left = MARGIN_PX + (index % COLUMNS) * (TILE_PX + MARGIN_PX)
        top = head_px + (index // COLUMNS) * (TILE_PX + CAPTION_PX + MARGIN_PX)
        with Image.open(io.BytesIO(item.content)) as image:
            tile = image.convert("RGB").resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top))
        prompt = textwrap.wrap(item.prompt, 32)[:3]
        pen.multiline_text((left, top + TILE_PX + 4), "\n".join(prompt), fill=INK, font=small)
        where = f"{item.executor}, {item.delay_s:.1f} s"
        pen.text((left, top + TILE_PX + 55), where, fill=FAINT, font=small)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
