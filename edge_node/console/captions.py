"""Prompts for replays: captions from a file of any of the usual formats, or a small own sample.

Flickr8k is research data: it is read where it lies and never copied anywhere.
"""

from __future__ import annotations

import csv
from pathlib import Path

from edge_node.errors import InvalidRequest

# Written for this project; no caption of any data set.
SAMPLE = (
    "a brown dog runs along the beach after a yellow ball",
    "two children in raincoats jump over a puddle",
    "an old man feeds pigeons on a park bench",
    "a cyclist in a red jersey climbs a steep mountain road",
    "a woman reads a newspaper in a crowded train",
    "three friends cook dinner in a small kitchen",
    "a black cat sleeps on a sunny window sill",
    "a surfer waits on her board for the next wave",
    "a boy in a green shirt kicks a football against a wall",
    "snow falls on a wooden bridge in the forest",
    "a street musician plays the violin at night",
    "a climber hangs from a rock face above the sea",
    "two horses graze behind a white fence",
    "a girl with a paper crown blows out candles",
    "a fisherman mends his net in the harbour",
    "a skateboarder slides down a metal rail",
    "a crowd watches fireworks over the river",
    "a gardener waters rows of tomatoes",
    "a small plane lands on a grass strip",
    "a dancer leaps across an empty stage",
    "people in orange vests clear a fallen tree from the road",
    "a lighthouse stands above grey waves",
    "a baker pulls bread from a brick oven",
    "a white dog carries a stick through shallow water",
)


def read_captions(path: Path | None) -> tuple[str, ...]:
    """Captions of a file, in its order; the sample when no file is given.

    Understands a plain text file with one caption a line, `Flickr8k.token.txt`
    (image#number<TAB>caption) and Kaggle's `captions.txt` (image,caption with a header).

    Raises:
        InvalidRequest: no such file, or nothing in it.
    """
    if path is None:
        return SAMPLE
    if not path.exists():
        raise InvalidRequest(
            f"There is no caption file {path}. Leave the option out to use the sample.",
            param="captions",
        )
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line.rstrip("\r\n") for line in file if line.strip()]
    if lines and lines[0].strip().lower() == "image,caption":
        captions = [row[1] for row in csv.reader(lines[1:]) if len(row) == 2]
    elif lines and "\t" in lines[0] and "#" in lines[0].split("\t")[0]:
        captions = [line.split("\t", 1)[1] for line in lines if "\t" in line]
    else:
        captions = lines
    cleaned = tuple(" ".join(caption.split()) for caption in captions if caption.strip())
    if not cleaned:
        raise InvalidRequest(f"{path} holds no captions.", param="captions")
    return cleaned
