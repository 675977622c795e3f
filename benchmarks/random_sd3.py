"""Stable Diffusion 3 of a chosen size with random weights, and diffusers' pipeline of it.

Speed and memory of drawing depend on shapes only, so what needs no gated weights is measured
without them. Owns the sizes and building them; it measures nothing.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from edge_node.domain import ModelFingerprint
from edge_node.worker import clip_vocabulary, sd3_configs
from edge_node.worker.sd3_parts import Sd3Parts


@dataclass(frozen=True, kw_only=True)
class Size:
    """Changes to SD3-medium's configs, by part; nothing changed is the full size."""

    name: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    clip: dict[str, Any]


FULL = Size(name="full", transformer={}, vae={}, clip={})
# As many image and context tokens as SD3-medium at 512x512, in a transformer that a CPU can run.
# The VAE is narrow, because SD3's own would take longer than all steps here.
MID = Size(
    name="mid",
    transformer={
        "sample_size": 64,
        "num_layers": 5,
        "num_attention_heads": 12,
        "caption_projection_dim": 768,
    },
    vae={"block_out_channels": [16, 32, 64, 64], "norm_num_groups": 8, "layers_per_block": 1},
    clip={"num_hidden_layers": 4},
)


def random_parts(size: Size, *, device: torch.device, dtype: torch.dtype) -> Sd3Parts:
    """A model of `size` whose weights are drawn from a fixed seed."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            transformer = diffusers.SD3Transformer2DModel.from_config(
                _config("transformer", size.transformer)
            )
            vae = diffusers.AutoencoderKL.from_config(_config("vae", size.vae))
            clips = [
                transformers.CLIPTextModelWithProjection(
                    transformers.CLIPTextConfig.from_dict(_config(part, size.clip))
                )
                for part in ("text_encoder", "text_encoder_2")
            ]
    finally:
        torch.set_default_dtype(before)
    modules = (transformer, vae, *clips)
    for module in modules:
        module.requires_grad_(False).eval()
    tokenizers = [_tokenizer(pad_token) for pad_token in ("<|endoftext|>", "!")]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return Sd3Parts(
        transformer=transformer,
        vae=vae,
        clips=tuple(zip(tokenizers, clips, strict=True)),
        scheduler_config=dict(scheduler.config),
        fingerprint=ModelFingerprint(f"random {size.name}"),
        weight_bytes=sum(
            tensor.nbytes for module in modules for tensor in module.state_dict().values()
        ),
    )


def pipeline_of(parts: Sd3Parts) -> Any:
    """Diffusers' own StableDiffusion3Pipeline over the same modules: no second copy."""
    (tokenizer, text_encoder), (tokenizer_2, text_encoder_2) = parts.clips
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=parts.transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler_config),
        vae=parts.vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _config(part: str, changes: dict[str, Any]) -> dict[str, Any]:
    text = (sd3_configs.config_folder() / part / "config.json").read_text(encoding="utf-8")
    return {**json.loads(text), **changes}


def _tokenizer(pad_token: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        clip_vocabulary.write(clip_vocabulary.shipped(), pathlib.Path(folder))
        return transformers.CLIPTokenizer.from_pretrained(
            folder, pad_token=pad_token, model_max_length=77
        )
