"""The tiny SD3's own CLIP tokenizer: a byte-level BPE whose merges make scene words one token.

Owns vocabulary and merges only; transformers' ``CLIPTokenizer`` does the tokenizing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TOKENS_MAX = 77


def byte_alphabet() -> list[str]:
    """Returns GPT-2's 256 printable stand-ins for the bytes, in the order of the bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges the commonest pair of neighbours again and again until each word is one token.

    Args:
        words: Lower-case ASCII words; each counts once.

    Returns:
        The merges in the order in which a BPE must apply them.
    """
    split = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges = []
    while any(len(parts) > 1 for parts in split):
        pairs = Counter(pair for parts in split for pair in pairwise(parts))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in split:
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [parts[i] + parts[i + 1]]
                i += 1
    return merges


def build_tokenizer(words: Sequence[str], *, pad_token: str) -> CLIPTokenizer:
    """Returns a CLIP tokenizer that knows every byte and has one token for each of ``words``."""
    merges = learn_merges([word for word in words if word.isalpha()])
    alphabet = byte_alphabet()
    tokens = alphabet + [a + END_OF_WORD for a in alphabet]
    tokens += list(dict.fromkeys(a + b for a, b in merges))
    tokens += [BOS, EOS]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=TOKENS_MAX,
    )
