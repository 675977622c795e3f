"""How long a prompt is, as its model's tokenizer counts."""

from __future__ import annotations

from typing import NamedTuple


class PromptTokens(NamedTuple):
    """How long a prompt is, and how much of it the model was told; 0 where nobody counts."""

    counted: int = 0
    drawn: int = 0

    @property
    def cut(self) -> int:
        """Tokens at the prompt's end that have no part in the picture."""
        return self.counted - self.drawn


NOT_COUNTED = PromptTokens()
