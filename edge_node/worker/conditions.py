"""What the transformer is told of a prompt: CLIP tokens, and the modulations of every step.

Owns encoding through both CLIPs as StableDiffusion3Pipeline does, and both caches. It imports no
diffusers: modules and tokenizers are handed in. Tensors end in T tokens, K context rows, D model
width, P pooled width, S steps and V modulation vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from edge_node.prompt_tokens import PromptTokens
from edge_node.worker.mmdit import FoldedTransformer
from edge_node.worker.prompt_cache import PromptCache
from edge_node.worker.sampling import FlowSchedule

PROMPTS_BYTES_MAX = 64 * 2**20
# A prompt's modulations at 28 steps are 25 MB in float16 for SD3-medium, and the empty negative
# prompt's are shared by all drawings of as many steps.
MODULATIONS_BYTES_MAX = 512 * 2**20
# Pieces of a long prompt: 600 tokens. Each adds 77 rows to the context.
CHUNKS_MAX = 8


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """context_KD: tokens in the model's width; pooled_P: both CLIPs' pooled outputs."""

    context_KD: torch.Tensor
    pooled_P: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self.context_KD.nbytes + self.pooled_P.nbytes


class Conditions:
    """Prompts as the transformer takes them, computed once and kept within bounds."""

    def __init__(
        self,
        clips: Sequence[tuple[Any, Any]],
        *,
        transformer: FoldedTransformer,
        joint_width: int,
        chunks_max: int = 1,
    ) -> None:
        """Prepares nothing yet.

        Args:
            clips: tokenizer and CLIPTextModelWithProjection of CLIP-L and of bigG.
            transformer: whose conditions these are.
            joint_width: width J to which the CLIPs' tokens are padded.
            chunks_max: pieces into which a long prompt is taken; with one its rest is cut off.
        """
        self._clips = clips
        self._transformer = transformer
        self._joint_width = joint_width
        self._chunks_max = chunks_max
        self._device = next(clips[0][1].parameters()).device
        # The empty prompt is what nearly every guided drawing is guided away from.
        self._prompts: PromptCache[tuple[str, int], EncodedPrompt] = PromptCache(
            bytes_max=PROMPTS_BYTES_MAX, kept=("", 1)
        )
        self._modulations: PromptCache[tuple[str, int], torch.Tensor] = PromptCache(
            bytes_max=MODULATIONS_BYTES_MAX
        )

    def chunks(self, prompts: Sequence[str]) -> int:
        """Pieces as which all of `prompts` are taken: as many as the longest of them needs."""
        if self._chunks_max == 1:
            return 1
        longest = max(self.prompt_tokens(prompt).drawn for prompt in prompts)
        return max(1, math.ceil(longest / self._chunk_tokens))

    def encoded(self, prompt: str, chunks: int = 1) -> EncodedPrompt:
        """Tokens and pooled outputs of `prompt`, in so many pieces."""
        known = self._prompts.get((prompt, chunks))
        if known is None:
            context_TJ, pooled_P = self.clip_tokens(prompt, chunks)
            known = EncodedPrompt(
                context_KD=self._transformer.embedded_context(context_TJ), pooled_P=pooled_P
            )
            self._prompts.put((prompt, chunks), known, size_bytes=known.size_bytes)
        return known

    def modulations(self, prompt: str, schedule: FlowSchedule) -> torch.Tensor:
        """Modulation vectors of all steps, (S, V, D).

        Rows keep no reference: a parked row's may be dropped and are computed again when needed.
        """
        key = (prompt, schedule.steps)
        known_SVD = self._modulations.get(key)
        if known_SVD is None:
            known_SVD = self._transformer.modulations(
                self.encoded(prompt).pooled_P, schedule.timestep_S.to(self._device)
            )
            self._modulations.put(key, known_SVD, size_bytes=known_SVD.nbytes)
        return known_SVD

    def release(self) -> None:
        """Gives the modulations' memory back; they are computed again when needed."""
        self._modulations.clear()

    def prompt_tokens(self, prompt: str) -> PromptTokens:
        """Tokens of `prompt` without those that begin and end it, and how many are encoded."""
        count = len(_ids(self._clips[0][0], prompt))
        return PromptTokens(count, min(count, self._chunks_max * self._chunk_tokens))

    def clip_tokens(self, prompt: str, chunks: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Both CLIPs' tokens side by side, padded to the joint width, (T, J), and pooled, (P,).

        More than one chunk are as A1111's: each begins, ends and is padded as a prompt by itself,
        those that a prompt does not fill are empty, and the first alone is pooled. Differs: no
        comma is looked for where a prompt is cut in pieces.
        """
        hidden_CTD, pooled_CD = [], []
        for tokenizer, encoder in self._clips:
            if chunks == 1:
                ids_CT = tokenizer(
                    prompt,
                    padding="max_length",
                    max_length=self._clips[0][0].model_max_length,
                    truncation=True,
                    return_tensors="pt",
                ).input_ids
            else:
                ids_CT = self._chunked(tokenizer, prompt, chunks)
            output = encoder(ids_CT.to(self._device), output_hidden_states=True)
            hidden_CTD.append(output.hidden_states[-2])
            pooled_CD.append(output[0])
        clip_TD = torch.cat(hidden_CTD, dim=-1).flatten(0, 1)
        padding = self._joint_width - clip_TD.shape[-1]
        return functional.pad(clip_TD, (0, padding)), torch.cat(pooled_CD, dim=-1)[0]

    @property
    def _chunk_tokens(self) -> int:
        """Tokens of a prompt that a CLIP takes at once, beside those that begin and end it."""
        length: int = self._clips[0][0].model_max_length
        return length - 2

    def _chunked(self, tokenizer: Any, prompt: str, chunks: int) -> torch.Tensor:
        ids, width = _ids(tokenizer, prompt), self._chunk_tokens
        rows = []
        for index in range(chunks):
            piece = ids[index * width : (index + 1) * width]
            ended = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
            rows.append(ended + [tokenizer.pad_token_id] * (width + 2 - len(ended)))
        return torch.tensor(rows)


def _ids(tokenizer: Any, prompt: str) -> list[int]:
    """All tokens of a prompt, without those that begin and end it."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return ids
