"""CLIP's vocabulary: the shipped one, those of tokenizer folders, and what tells them apart.

Owns byte-pair merges and token numbers as data. Tokenizing is transformers' own business; this
module must import neither it nor torch.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_node.json_text import parsed
from edge_node.worker import sd3_configs
from edge_node.worker.denoiser import ModelUnusable

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
_WORD_END = "</w>"
VOCABULARY_NAMES = ("vocab.json", "tokenizer.json")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What makes a CLIP tokenizer the same tokenizer.

    Attributes:
        token_ids: number of each token.
        merges: pairs of tokens that are joined, as "left right", best first.
    """

    token_ids: Mapping[str, int]
    merges: Sequence[str]

    def digest(self, *, pad_token: str, length_max: int) -> str:
        """sha256 of a tokenizer that pads with `pad_token` to at most `length_max` tokens."""
        content = [sorted(self.token_ids.items()), list(self.merges), pad_token, length_max]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def byte_letters() -> list[str]:
    """CLIP's letter for each byte, in the order of their token numbers.

    Printable bytes of Latin-1 stand for themselves and come first; the others follow as the
    letters from U+0100 on (Radford et al. 2019, `bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(0x100, 0x100 + others))]


def shipped() -> Vocabulary:
    """CLIP's own vocabulary of 49408 tokens, which both of SD3's CLIPs use."""
    with gzip.open(sd3_configs.merges_path(), "rt", encoding="utf-8") as file:
        merges = file.read().splitlines()
    letters = byte_letters()
    tokens = [
        *letters,
        *(letter + _WORD_END for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
        START_TOKEN,
        END_TOKEN,
    ]
    return Vocabulary(token_ids={token: n for n, token in enumerate(tokens)}, merges=merges)


def has_own(folder: pathlib.Path) -> bool:
    """Whether a tokenizer's folder holds a vocabulary; one without uses the shipped one."""
    return any((folder / name).is_file() for name in VOCABULARY_NAMES)


def read(folder: pathlib.Path) -> Vocabulary:
    """Vocabulary of a tokenizer's folder, in whichever of transformers' two forms it is."""
    if not has_own(folder):
        return shipped()
    try:
        own = _own(folder)
        if not own.token_ids:
            raise ValueError("it has no tokens")
        return own
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(
            f"the vocabulary in {folder} cannot be read ({type(error).__name__}: {error}): put the "
            "tokenizer's own vocab.json and merges.txt there, or its tokenizer.json"
        ) from error


def _own(folder: pathlib.Path) -> Vocabulary:
    if (folder / "vocab.json").is_file():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        return Vocabulary(
            token_ids=parsed((folder / "vocab.json").read_text(encoding="utf-8")),
            merges=[line for line in lines if line and not line.startswith("#version")],
        )
    tokenizer = parsed((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    merges = tokenizer["model"]["merges"]
    return Vocabulary(
        token_ids=tokenizer["model"]["vocab"] | added,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
    )


def write(vocabulary: Vocabulary, folder: pathlib.Path) -> None:
    """Writes the two files from which every version of transformers builds a CLIPTokenizer."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary.token_ids), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *vocabulary.merges, ""]), encoding="utf-8"
    )
