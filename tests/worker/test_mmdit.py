"""The folded forward pass against diffusers' transformer, block kinds and attention kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from edge_node.worker.mmdit import (
    Attention,
    FoldedTransformer,
    masked_attention,
    merged_attention,
    working_attention,
)

pytestmark = pytest.mark.model

TOKENS, ZERO_ROWS = 7, 20
KINDS = {
    "sd3": {},
    "sd3.5 with normed queries and dual attention": {
        "qk_norm": "rms_norm",
        "dual_attention_layers": (0,),
    },
}


def transformer(dtype: torch.dtype, **changes: Any) -> SD3Transformer2DModel:
    torch.manual_seed(3)
    made = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=16,
        pos_embed_max_size=12,
        **changes,
    )
    return torch.nn.Module.to(made, dtype).eval().requires_grad_(False)


def inputs(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "latent": normal(3, 4, 8, 12),
        "context": normal(3, TOKENS, 24),
        "pooled": normal(3, 16),
        "timestep": torch.tensor([999.0, 500.0, 3.0]),
    }


@torch.inference_mode()
def folded_and_plain(
    module: SD3Transformer2DModel,
    given: dict[str, torch.Tensor],
    *,
    zero_rows: int,
    attention: Attention | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    folded = FoldedTransformer(module, zero_rows=zero_rows, attention=attention)
    ours = folded.velocity(
        given["latent"],
        torch.stack([folded.embedded_context(one) for one in given["context"]]),
        torch.stack(
            [
                folded.modulations(pooled, timestep[None])[0]
                for pooled, timestep in zip(given["pooled"], given["timestep"], strict=True)
            ]
        ),
    )
    padded = torch.nn.functional.pad(given["context"], (0, 0, 0, zero_rows))
    theirs = module(
        hidden_states=given["latent"],
        encoder_hidden_states=padded,
        pooled_projections=given["pooled"],
        timestep=given["timestep"],
        return_dict=False,
    )[0]
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero_rows", [0, 1, ZERO_ROWS])
@pytest.mark.parametrize("attention", [masked_attention, merged_attention])
def test_folding_changes_nothing(kind: str, zero_rows: int, attention: Attention) -> None:
    module = transformer(torch.float64, **KINDS[kind])
    ours, theirs = folded_and_plain(
        module, inputs(torch.float64), zero_rows=zero_rows, attention=attention
    )
    assert (ours - theirs).abs().max() <= 1e-13 * theirs.abs().max()


def test_in_float32_and_bfloat16_it_is_as_near_as_rounding_lets_it() -> None:
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 3e-2)):
        ours, theirs = folded_and_plain(transformer(dtype), inputs(dtype), zero_rows=ZERO_ROWS)
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_leaving_the_zero_rows_out_is_not_the_same() -> None:
    module, given = transformer(torch.float64), inputs(torch.float64)
    with_them, _ = folded_and_plain(module, given, zero_rows=ZERO_ROWS)
    without, _ = folded_and_plain(module, given, zero_rows=0)
    assert (with_them - without).abs().max() > 1e-4


@torch.inference_mode()
def test_modulations_of_all_steps_are_those_of_each() -> None:
    folded = FoldedTransformer(transformer(torch.float64), zero_rows=0)
    given = inputs(torch.float64)
    together = folded.modulations(given["pooled"][0], given["timestep"])
    for step, timestep in enumerate(given["timestep"]):
        alone = folded.modulations(given["pooled"][0], timestep[None])[0]
        assert torch.allclose(together[step], alone, rtol=1e-13, atol=1e-13)


def test_an_attention_is_chosen_that_runs_here() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        chosen = working_attention(heads=2, width=8, like=torch.empty(1, dtype=dtype))
        query = torch.randn(1, 2, 5, 8).to(dtype)
        assert torch.isfinite(chosen(query, query, query, 3)).all()


def test_compiled_blocks_give_the_same() -> None:
    module, given = transformer(torch.float32), inputs(torch.float32)
    folded = FoldedTransformer(module, zero_rows=ZERO_ROWS)
    with torch.inference_mode():
        context = torch.stack([folded.embedded_context(one) for one in given["context"]])
        table = folded.modulations(given["pooled"][0], given["timestep"])
        eager = folded.velocity(given["latent"], context, table)
        torch._dynamo.reset()
        folded.compile_blocks(backend="aot_eager")
        compiled = folded.velocity(given["latent"], context, table)
    assert (compiled - eager).abs().max() <= 1e-5 * eager.abs().max()
