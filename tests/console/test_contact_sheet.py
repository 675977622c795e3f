"""The contact sheet shows every image that was drawn."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from edge_node.console.contact_sheet import TILE_PX, write_contact_sheet
from edge_node.console.rest_client import Drawn


def test_every_image_is_on_the_sheet_and_failures_are_not(tmp_path: Path) -> None:
    colours = [(200, 10 * i, 30) for i in range(8)]
    items = []
    for colour in colours:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
        items.append(item(buffer.getvalue()))
    items.append(item(b""))
    path = tmp_path / "deep" / "sheet.png"
    write_contact_sheet(items, path, title="A title")
    with Image.open(path) as sheet:
        counts = {colour: n for n, colour in sheet.getcolors(maxcolors=2**20) or []}
    for colour in colours:
        assert counts[colour] >= TILE_PX**2


def item(content: bytes) -> Drawn:
    return Drawn(
        prompt="a rather long prompt that has to be broken into several lines to fit below",
        node_url="u",
        status_code=200,
        delay_s=1.0,
        sent_s=0.0,
        content=content,
        executor="node-0",
    )
