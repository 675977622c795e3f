"""What Stable Diffusion 3's published single files hold: names and shapes, at any size.

Owns knowledge of the layout and writing such files with random weights, so that loading can be
tested small and measured at full size without the gated weights. It is written down from the
published files and shares nothing with the loader that it tests. Standard library and numpy only.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

TRANSFORMER = "model.diffusion_model."
VAE = "first_stage_model."
CLIP_L = "text_encoders.clip_l.transformer."
CLIP_G = "text_encoders.clip_g.transformer."
T5 = "text_encoders.t5xxl.transformer."

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
# Values drawn once and repeated; prime, so that no two tensors begin alike.
_BLOCK_ITEMS = 4_194_301

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """One CLIP text encoder."""

    layers: int
    width: int
    hidden: int
    tokens: int = 49408
    positions: int = 77


@dataclass(frozen=True, kw_only=True)
class Sd3Size:
    """All dimensions of a Stable Diffusion 3; the defaults are SD3-medium's.

    Attributes:
        dual_layers: number of first blocks with a second attention (SD3.5-medium has 13).
        qk_norm_width: width of a head where queries and keys are normalised (SD3.5), else 0.
    """

    layers: int = 24
    width: int = 1536
    channels: int = 16
    joint_width: int = 4096
    pooled_width: int = 2048
    positions_side: int = 192
    dual_layers: int = 0
    qk_norm_width: int = 0
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_blocks: int = 2
    clip_l: ClipSize = ClipSize(layers=12, width=768, hidden=3072)
    clip_g: ClipSize = ClipSize(layers=32, width=1280, hidden=5120)


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _convolution(name: str, to: int, of: int, side: int) -> Shapes:
    return {f"{name}.weight": (to, of, side, side), f"{name}.bias": (to,)}


def transformer(size: Sd3Size) -> Shapes:
    """The MMDiT, as under `model.diffusion_model.`."""
    width = size.width
    shapes: Shapes = {"pos_embed": (1, size.positions_side**2, width)}
    shapes |= _convolution("x_embedder.proj", width, size.channels, 2)
    shapes |= _linear("context_embedder", width, size.joint_width)
    for name, inputs in (("t_embedder", 256), ("y_embedder", size.pooled_width)):
        shapes |= _linear(f"{name}.mlp.0", width, inputs)
        shapes |= _linear(f"{name}.mlp.2", width, width)
    for layer in range(size.layers):
        block = f"joint_blocks.{layer}"
        dual = layer < size.dual_layers
        shapes |= _stream(f"{block}.x_block", size, modulations=9 if dual else 6)
        if dual:
            shapes |= _attention(f"{block}.x_block.attn2", size, projected=True)
        # The last block's context is only read.
        if layer < size.layers - 1:
            shapes |= _stream(f"{block}.context_block", size, modulations=6)
        else:
            shapes |= _attention(f"{block}.context_block.attn", size, projected=False)
            shapes |= _linear(f"{block}.context_block.adaLN_modulation.1", 2 * width, width)
    shapes |= _linear("final_layer.linear", 4 * size.channels, width)
    shapes |= _linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return shapes


def _stream(name: str, size: Sd3Size, *, modulations: int) -> Shapes:
    return {
        **_linear(f"{name}.adaLN_modulation.1", modulations * size.width, size.width),
        **_attention(f"{name}.attn", size, projected=True),
        **_linear(f"{name}.mlp.fc1", 4 * size.width, size.width),
        **_linear(f"{name}.mlp.fc2", size.width, 4 * size.width),
    }


def _attention(name: str, size: Sd3Size, *, projected: bool) -> Shapes:
    shapes = _linear(f"{name}.qkv", 3 * size.width, size.width)
    if projected:
        shapes |= _linear(f"{name}.proj", size.width, size.width)
    if size.qk_norm_width:
        shapes |= {f"{name}.ln_{which}.weight": (size.qk_norm_width,) for which in "qk"}
    return shapes


def vae(size: Sd3Size) -> Shapes:
    """The autoencoder, as under `first_stage_model.`."""
    channels = size.vae_channels
    last = len(channels) - 1
    shapes = _convolution("encoder.conv_in", channels[0], 3, 3)
    inputs = channels[0]
    for level, outputs in enumerate(channels):
        for block in range(size.vae_blocks):
            shapes |= _residual(f"encoder.down.{level}.block.{block}", outputs, inputs)
            inputs = outputs
        if level < last:
            shapes |= _convolution(f"encoder.down.{level}.downsample.conv", outputs, outputs, 3)
    shapes |= _middle("encoder", inputs)
    shapes |= _norm("encoder.norm_out", inputs)
    shapes |= _convolution("encoder.conv_out", 2 * size.channels, inputs, 3)
    shapes |= _convolution("decoder.conv_in", inputs, size.channels, 3)
    shapes |= _middle("decoder", inputs)
    for level in range(last, -1, -1):
        outputs = channels[level]
        for block in range(size.vae_blocks + 1):
            shapes |= _residual(f"decoder.up.{level}.block.{block}", outputs, inputs)
            inputs = outputs
        if level > 0:
            shapes |= _convolution(f"decoder.up.{level}.upsample.conv", outputs, outputs, 3)
    shapes |= _norm("decoder.norm_out", inputs)
    shapes |= _convolution("decoder.conv_out", 3, inputs, 3)
    return shapes


def _residual(name: str, outputs: int, inputs: int) -> Shapes:
    shapes = {
        **_norm(f"{name}.norm1", inputs),
        **_convolution(f"{name}.conv1", outputs, inputs, 3),
        **_norm(f"{name}.norm2", outputs),
        **_convolution(f"{name}.conv2", outputs, outputs, 3),
    }
    if inputs != outputs:
        shapes |= _convolution(f"{name}.nin_shortcut", outputs, inputs, 1)
    return shapes


def _middle(side: str, width: int) -> Shapes:
    shapes = {
        **_residual(f"{side}.mid.block_1", width, width),
        **_residual(f"{side}.mid.block_2", width, width),
        **_norm(f"{side}.mid.attn_1.norm", width),
    }
    for name in ("q", "k", "v", "proj_out"):
        shapes |= _convolution(f"{side}.mid.attn_1.{name}", width, width, 1)
    return shapes


def clip(size: ClipSize, *, projection: bool) -> Shapes:
    """A CLIP text encoder; SD3's files hold CLIP-L's without its projection."""
    width = size.width
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (size.tokens, width),
        "text_model.embeddings.position_embedding.weight": (size.positions, width),
    }
    for layer in range(size.layers):
        name = f"text_model.encoder.layers.{layer}"
        shapes |= _norm(f"{name}.layer_norm1", width) | _norm(f"{name}.layer_norm2", width)
        shapes |= _linear(f"{name}.mlp.fc1", size.hidden, width)
        shapes |= _linear(f"{name}.mlp.fc2", width, size.hidden)
        for projected in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{name}.self_attn.{projected}", width, width)
    shapes |= _norm("text_model.final_layer_norm", width)
    if projection:
        shapes["text_projection.weight"] = (width, width)
    return shapes


def t5_xxl() -> Shapes:
    """The T5-XXL encoder, whose embedding is stored twice."""
    shapes: Shapes = {"shared.weight": (32128, 4096), "encoder.embed_tokens.weight": (32128, 4096)}
    for layer in range(24):
        name = f"encoder.block.{layer}.layer"
        for which in "qkvo":
            shapes[f"{name}.0.SelfAttention.{which}.weight"] = (4096, 4096)
        shapes[f"{name}.0.layer_norm.weight"] = (4096,)
        shapes[f"{name}.1.DenseReluDense.wi_0.weight"] = (10240, 4096)
        shapes[f"{name}.1.DenseReluDense.wi_1.weight"] = (10240, 4096)
        shapes[f"{name}.1.DenseReluDense.wo.weight"] = (4096, 10240)
        shapes[f"{name}.1.layer_norm.weight"] = (4096,)
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 64)
    shapes["encoder.final_layer_norm.weight"] = (4096,)
    return shapes


def single_file(size: Sd3Size, *, clips: bool, t5: bool) -> Shapes:
    """A whole checkpoint: `sd3_medium`, `..._incl_clips` or `..._incl_clips_t5xxl*`."""
    parts = [(TRANSFORMER, transformer(size)), (VAE, vae(size))]
    if clips:
        parts.append((CLIP_L, clip(size.clip_l, projection=False)))
        parts.append((CLIP_G, clip(size.clip_g, projection=True)))
    if t5:
        parts.append((T5, t5_xxl()))
    return {prefix + name: shape for prefix, shapes in parts for name, shape in shapes.items()}


def random_block(dtype: str, *, seed: int) -> bytes:
    """Small finite values, as many as are repeated."""
    values = 0.02 * np.random.default_rng(seed).standard_normal(_BLOCK_ITEMS, dtype=np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def write(
    path: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: str,
    seed: int = 0,
    hole: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file of random weights.

    Args:
        path: file to write.
        shapes: of each tensor.
        dtype: of all tensors, as in a header.
        seed: of the values.
        hole: dtype by prefix of tensors of which only the header tells; they take no disk.
    """
    header: dict[str, object] = {}
    spans: list[tuple[int, int, bool]] = []
    offset = 0
    for name, shape in shapes.items():
        holed = next((kind for prefix, kind in (hole or {}).items() if name.startswith(prefix)), "")
        stop = offset + math.prod(shape) * ITEM_BYTES[holed or dtype]
        header[name] = {
            "dtype": holed or dtype,
            "shape": list(shape),
            "data_offsets": [offset, stop],
        }
        spans.append((offset, stop, bool(holed)))
        offset = stop
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    block = memoryview(random_block(dtype, seed=seed))
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        data_start = file.tell()
        for start, stop, is_hole in spans:
            if not is_hole:
                file.seek(data_start + start)
                _write_repeated(file, block, start=start, count=stop - start)
        file.truncate(data_start + offset)


def _write_repeated(file: BinaryIO, block: memoryview, *, start: int, count: int) -> None:
    while count:
        piece = block[start % len(block) :][:count]
        file.write(piece)
        start += len(piece)
        count -= len(piece)
