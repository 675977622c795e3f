"""The forward pass of SD3's transformer (MMDiT) over rows of mixed ages, without repeated work.

diffusers supplies the modules and their weights; this module calls them in another arrangement
with the same result (Esser et al. 2024, arXiv 2403.03206, figure 2):

- *Folded context*: without T5, diffusers pads the 77 CLIP tokens with 256 rows of zeros. They
  have no positions, so they stay equal to each other through every block. One of them is kept,
  and attention counts its key and value 256 times.
- *Modulations in advance*: what adaLN makes of time and pooled prompt depends on nothing else, so
  the vectors of all steps come from one product for each layer when a drawing is admitted.
- The last block's context queries, whose result nobody reads, are not computed.

Owns arithmetic only: no schedule, no queue, no loading. Tensors end in B rows (one for each
condition), N image tokens, K context tokens, D model width, H heads, E width of a head, S steps
and V modulation vectors.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

# Vectors that each kind of adaptive norm makes, in diffusers' order; those that multiply as
# 1 + scale are kept with the 1 added.
_ZERO = ("shift", "scale", "gate", "shift_mlp", "scale_mlp", "gate_mlp")
_ZERO_DUAL = (*_ZERO, "shift_2", "scale_2", "gate_2")
_CONTINUOUS = ("scale", "shift")

Vectors = dict[str, torch.Tensor]
# Attention of query_BHQE over key_BHKE and value_BHKE.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Attention(Protocol):
    """Attention whose last key counts `copies` times."""

    def __call__(
        self,
        query_BHQE: torch.Tensor,
        key_BHKE: torch.Tensor,
        value_BHKE: torch.Tensor,
        copies: int,
    ) -> torch.Tensor:
        """Mean of the values for every query, (B, H, Q, E)."""
        ...


def masked_attention(
    query_BHQE: torch.Tensor, key_BHKE: torch.Tensor, value_BHKE: torch.Tensor, copies: int
) -> torch.Tensor:
    """Counts the last key `copies` times by adding ln(copies) to its logit. Runs everywhere."""
    bias_111K = None
    if copies > 1:
        bias_111K = query_BHQE.new_zeros(1, 1, 1, key_BHKE.shape[2])
        bias_111K[..., -1] = math.log(copies)
    return functional.scaled_dot_product_attention(
        query_BHQE, key_BHKE, value_BHKE, attn_mask=bias_111K
    )


def merged_attention(
    query_BHQE: torch.Tensor, key_BHKE: torch.Tensor, value_BHKE: torch.Tensor, copies: int
) -> torch.Tensor:
    """The same from a flash kernel over all other keys, whose log-sum-exp admits the last one.

    Flash kernels take no bias, and kernels that take one are slower: softmax over all keys is the
    mean of both parts, weighted by their exponential sums.
    """
    if copies == 1:
        return functional.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE)
    rest = (query_BHQE, key_BHKE[:, :, :-1], value_BHKE[:, :, :-1])
    if query_BHQE.is_cuda:
        output_BHQE, log_sum_BHQ = torch.ops.aten._scaled_dot_product_flash_attention(*rest)[:2]
    else:
        output_BHQE, log_sum_BHQ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*rest)
    scale = 1.0 / math.sqrt(query_BHQE.shape[-1])
    last_BHQ = torch.matmul(query_BHQE, key_BHKE[:, :, -1:].mT).squeeze(-1)
    logit_BHQ = last_BHQ.to(log_sum_BHQ.dtype) * scale + math.log(copies)
    share_BHQ1 = torch.sigmoid(logit_BHQ - log_sum_BHQ).unsqueeze(-1).to(query_BHQE.dtype)
    return torch.lerp(output_BHQE, value_BHKE[:, :, -1:].expand_as(output_BHQE), share_BHQ1)


def working_attention(*, heads: int, width: int, like: torch.Tensor) -> Attention:
    """The merging one where its kernel runs for the device and dtype of `like`, else the other."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(3, 2, heads, 20, width, generator=generator).to(like)
    try:
        merged = merged_attention(sample[0], sample[1], sample[2], 256)
    except (RuntimeError, NotImplementedError, AttributeError):
        return masked_attention
    expected = masked_attention(sample[0], sample[1], sample[2], 256)
    close = torch.allclose(merged.float(), expected.float(), rtol=1e-2, atol=1e-2)
    return merged_attention if close else masked_attention


@dataclass(frozen=True, kw_only=True)
class _Norm:
    """Where one adaptive norm's vectors lie in the table, and what they are."""

    linear: torch.nn.Linear
    names: tuple[str, ...]
    start: int

    def vectors(self, table_BVD: torch.Tensor) -> Vectors:
        rows_BVD = table_BVD[:, self.start : self.start + len(self.names), None]
        return dict(zip(self.names, rows_BVD.unbind(1), strict=True))


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A JointTransformerBlock and its adaptive norms."""

    module: Any
    image: _Norm
    context: _Norm


class FoldedTransformer:
    """An SD3Transformer2DModel that is told its rows' contexts and modulations ready-made."""

    def __init__(
        self, transformer: Any, *, zero_rows: int, attention: Attention | None = None
    ) -> None:
        """Arranges the modules of `transformer`, which is shared, not copied.

        Args:
            transformer: diffusers' SD3Transformer2DModel, in the dtype and on the device to use.
            zero_rows: rows of zeros that follow the prompt's tokens; 0 for none.
            attention: how to attend; the fastest that works here when not given.
        """
        self._transformer = transformer
        self._zero_rows = zero_rows
        self._blocks: list[_Block] = []
        first_free = 0
        for module in transformer.transformer_blocks:
            image = _Norm(
                linear=module.norm1.linear,
                names=_ZERO_DUAL if module.use_dual_attention else _ZERO,
                start=first_free,
            )
            context = _Norm(
                linear=module.norm1_context.linear,
                names=_CONTINUOUS if module.context_pre_only else _ZERO,
                start=first_free + len(image.names),
            )
            first_free = context.start + len(context.names)
            self._blocks.append(_Block(module=module, image=image, context=context))
        self._final = _Norm(linear=transformer.norm_out.linear, names=_CONTINUOUS, start=first_free)
        config = transformer.config
        attention = attention or working_attention(
            heads=config.num_attention_heads,
            width=config.attention_head_dim,
            like=transformer.proj_out.weight,
        )
        self._attend = functools.partial(attention, copies=max(zero_rows, 1))
        self._run_block = _block

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Has the blocks compiled at their next calls, once for each shape.

        One compilation serves all blocks but the last, since they differ in weights only.
        """
        self._run_block = torch.compile(_block, backend=backend)

    @property
    def _norms(self) -> list[_Norm]:
        pairs = itertools.chain.from_iterable((one.image, one.context) for one in self._blocks)
        return [*pairs, self._final]

    def embedded_context(self, context_TJ: torch.Tensor) -> torch.Tensor:
        """Tokens of a prompt in the model's width, with one row for all rows of zeros, (K, D)."""
        if self._zero_rows:
            context_TJ = functional.pad(context_TJ, (0, 0, 0, 1))
        embedded: torch.Tensor = self._transformer.context_embedder(context_TJ)
        return embedded

    def modulations(self, pooled_P: torch.Tensor, timestep_S: torch.Tensor) -> torch.Tensor:
        """All adaptive norms' vectors of one prompt at all steps, (S, V, D)."""
        pooled_SP = pooled_P.expand(len(timestep_S), -1)
        embedded_SD = functional.silu(self._transformer.time_text_embed(timestep_S, pooled_SP))
        width = embedded_SD.shape[1]
        table_SVD = embedded_SD.new_empty(
            len(timestep_S), self._final.start + len(_CONTINUOUS), width
        )
        for norm in self._norms:
            vectors_SVD = norm.linear(embedded_SD).view(-1, len(norm.names), width)
            for place, name in enumerate(norm.names):
                added = 1.0 if name.startswith("scale") else 0.0
                table_SVD[:, norm.start + place] = vectors_SVD[:, place] + added
        return table_SVD

    def velocity(
        self, latent_BCHW: torch.Tensor, context_BKD: torch.Tensor, table_BVD: torch.Tensor
    ) -> torch.Tensor:
        """What the transformer predicts for every row, (B, C, H, W).

        Args:
            latent_BCHW: noisy latents of one size.
            context_BKD: of `embedded_context`.
            table_BVD: of `modulations`, each row's at its own step.
        """
        transformer = self._transformer
        image_BND = transformer.pos_embed(latent_BCHW).contiguous()
        for block in self._blocks:
            image_BND, context_BKD = self._run_block(
                block.module,
                (image_BND, context_BKD),
                (block.image.vectors(table_BVD), block.context.vectors(table_BVD)),
                self._attend,
            )
        image_BND = _modulated(image_BND, self._final.vectors(table_BVD))
        patches_BNP = transformer.proj_out(image_BND)
        return self._unpatched(patches_BNP, latent_BCHW)

    def _unpatched(self, patches_BNP: torch.Tensor, latent_BCHW: torch.Tensor) -> torch.Tensor:
        side = self._transformer.config.patch_size
        batch, _, height, width = latent_BCHW.shape
        grid = patches_BNP.reshape(
            batch, height // side, width // side, side, side, self._transformer.out_channels
        )
        return torch.einsum("bhwpqc->bchpwq", grid).reshape(batch, -1, height, width)


def _block(
    module: Any,
    tokens: tuple[torch.Tensor, torch.Tensor],
    vectors: tuple[Vectors, Vectors],
    attend: Attend,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One JointTransformerBlock; pairs are of image and context."""
    image_BND, context_BKD = tokens
    image, context = vectors
    normed_BND = functional.layer_norm(image_BND, image_BND.shape[-1:], eps=1e-6)
    first_BND = torch.addcmul(image["shift"], normed_BND, image["scale"])
    attended_BND, attended_BKD = _joint_attention(
        module.attn,
        first_BND,
        _modulated(context_BKD, context),
        attend,
        last=module.context_pre_only,
    )
    image_BND = torch.addcmul(image_BND, image["gate"], attended_BND)
    if module.use_dual_attention:
        second_BND = torch.addcmul(image["shift_2"], normed_BND, image["scale_2"])
        again_BND = _self_attention(module.attn2, second_BND)
        image_BND = torch.addcmul(image_BND, image["gate_2"], again_BND)
    image_BND = _fed_forward(module.ff, image_BND, image)
    if attended_BKD is not None:
        context_BKD = torch.addcmul(context_BKD, context["gate"], attended_BKD)
        context_BKD = _fed_forward(module.ff_context, context_BKD, context)
    return image_BND, context_BKD


def _joint_attention(
    module: Any,
    image_BND: torch.Tensor,
    context_BKD: torch.Tensor,
    attend: Attend,
    *,
    last: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    heads, tokens = module.heads, image_BND.shape[1]
    query = _heads(module.to_q(image_BND), heads, module.norm_q)
    key = _heads(module.to_k(image_BND), heads, module.norm_k)
    value = _heads(module.to_v(image_BND), heads, None)
    added_key = _heads(module.add_k_proj(context_BKD), heads, module.norm_added_k)
    added_value = _heads(module.add_v_proj(context_BKD), heads, None)
    if not last:
        added_query = _heads(module.add_q_proj(context_BKD), heads, module.norm_added_q)
        query = torch.cat([query, added_query], dim=2)
    output_BHQE = attend(
        query, torch.cat([key, added_key], dim=2), torch.cat([value, added_value], dim=2)
    )
    output_BQD = output_BHQE.transpose(1, 2).flatten(2)
    image_BND = module.to_out[0](output_BQD[:, :tokens])
    return image_BND, None if last else module.to_add_out(output_BQD[:, tokens:])


def _modulated(tokens_BND: torch.Tensor, vectors: Vectors) -> torch.Tensor:
    normed_BND = functional.layer_norm(tokens_BND, tokens_BND.shape[-1:], eps=1e-6)
    return torch.addcmul(vectors["shift"], normed_BND, vectors["scale"])


def _fed_forward(module: Any, tokens_BND: torch.Tensor, vectors: Vectors) -> torch.Tensor:
    normed_BND = functional.layer_norm(tokens_BND, tokens_BND.shape[-1:], eps=1e-6)
    inner_BND = torch.addcmul(vectors["shift_mlp"], normed_BND, vectors["scale_mlp"])
    return torch.addcmul(tokens_BND, vectors["gate_mlp"], module(inner_BND))


def _self_attention(module: Any, image_BND: torch.Tensor) -> torch.Tensor:
    query = _heads(module.to_q(image_BND), module.heads, module.norm_q)
    key = _heads(module.to_k(image_BND), module.heads, module.norm_k)
    value = _heads(module.to_v(image_BND), module.heads, None)
    output_BHQE = functional.scaled_dot_product_attention(query, key, value)
    attended: torch.Tensor = module.to_out[0](output_BHQE.transpose(1, 2).flatten(2))
    return attended


def _heads(tokens_BND: torch.Tensor, heads: int, norm: Any) -> torch.Tensor:
    batch, tokens, _ = tokens_BND.shape
    split_BHNE = tokens_BND.view(batch, tokens, heads, -1).transpose(1, 2)
    normed_BHNE: torch.Tensor = split_BHNE if norm is None else norm(split_BHNE)
    return normed_BHNE
