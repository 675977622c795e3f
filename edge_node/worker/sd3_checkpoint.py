"""The names of Stable Diffusion 3's single files, and what diffusers calls the same tensors.

Owns the mapping from the published checkpoints (`sd3_medium*.safetensors` and the CLIPs beside
them) to parameters of diffusers' and transformers' modules: renaming, the parts of fused tensors,
halves that change places. Pure functions of headers; it opens no file and imports no torch.
Whether a name is one that the module really has is for the loader to say, which has the module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_node.worker.safetensors_file import StoredTensor

TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIXES = {
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
}
# How a CLIP's names may begin in a file of its own.
_LONE_CLIP_PREFIXES = (*CLIP_PREFIXES.values(), "transformer.", "")
TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"
_CLIP_PROJECTION = "text_projection.weight"

# What files may hold beside the parts: T5, averages of training, the loss of the VAE, and numbers
# that the modules compute or do not use.
_UNUSED = re.compile(
    r"text_encoders\.t5xxl\.|model_ema\.|first_stage_model\.loss\."
    r"|.*\bposition_ids$|.*\blogit_scale$"
)

_TRANSFORMER_NAMES = (
    (r"^pos_embed$", "pos_embed.pos_embed"),
    (r"^x_embedder\.", "pos_embed."),
    (r"^t_embedder\.mlp\.", "time_text_embed.timestep_embedder.mlp."),
    (r"^y_embedder\.mlp\.", "time_text_embed.text_embedder.mlp."),
    (r"_embedder\.mlp\.0\.", "_embedder.linear_1."),
    (r"_embedder\.mlp\.2\.", "_embedder.linear_2."),
    (r"^final_layer\.linear\.", "proj_out."),
    (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
    (r"^joint_blocks\.(\d+)\.", r"transformer_blocks.\1."),
    (r"\.x_block\.attn(2?)\.ln_([qk])\.", r".attn\1.norm_\2."),
    (r"\.context_block\.attn\.ln_([qk])\.", r".attn.norm_added_\1."),
    (r"\.x_block\.attn(2?)\.proj\.", r".attn\1.to_out.0."),
    (r"\.context_block\.attn\.proj\.", ".attn.to_add_out."),
    (r"\.x_block\.adaLN_modulation\.1\.", ".norm1.linear."),
    (r"\.context_block\.adaLN_modulation\.1\.", ".norm1_context.linear."),
    (r"\.x_block\.mlp\.", ".ff."),
    (r"\.context_block\.mlp\.", ".ff_context."),
    (r"\.fc1\.", ".net.0.proj."),
    (r"\.fc2\.", ".net.2."),
)
_FUSED = re.compile(r"joint_blocks\.(\d+)\.(x_block|context_block)\.(attn2?)\.qkv\.(weight|bias)")
_NORMED = re.compile(rf"{re.escape(TRANSFORMER_PREFIX)}joint_blocks\.\d+\.x_block\.attn\.ln_q\.")
_FUSED_NAMES = {
    "x_block": ("to_q", "to_k", "to_v"),
    "context_block": ("add_q_proj", "add_k_proj", "add_v_proj"),
}

_VAE_NAMES = (
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up_blocks\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up_blocks\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
)

# The first name that is found says what a file is.
_KINDS = (
    (r"(^|.*\.)lora_(A|B|down|up)\b|lora_unet_|lora_te", "a LoRA"),
    (r"(model\.diffusion_model\.)?double_blocks\.\d+\.img_attn\.", "a Flux model"),
    (r"conditioner\.embedders\.", "a Stable Diffusion XL checkpoint"),
    (r"cond_stage_model\.", "a Stable Diffusion 1 or 2 checkpoint"),
    (r"model\.diffusion_model\.input_blocks\.", "a U-Net of Stable Diffusion 1, 2 or XL"),
    (r"joint_blocks\.", "a Stable Diffusion 3 transformer alone, without its VAE"),
    (r"transformer_blocks\.\d+\.", "the transformer of a diffusers folder"),
    (r"(shared\.weight$|encoder\.block\.\d+\.layer\.)", "a T5 text encoder alone"),
    (r"text_encoders\.t5xxl\.", "a T5 text encoder alone"),
    (r"(.*\.)?text_model\.", "a CLIP text encoder alone"),
    (r"(first_stage_model\.)?(encoder|decoder)\.(mid|mid_block)\b", "a VAE alone"),
)


@dataclass(frozen=True, kw_only=True)
class IdentityMatrix:
    """A parameter that no file holds: ones on the diagonal of a square of `width`.

    Stable Diffusion 3 was trained on CLIP-L's pooled output before its projection, so the single
    files come without one and diffusers puts this in its place.
    """

    width: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.width, self.width


Source = StoredTensor | IdentityMatrix


def is_sd3(keys: Iterable[str]) -> bool:
    """Whether these are the names of a Stable Diffusion 3 checkpoint."""
    return any(key.startswith(f"{TRANSFORMER_PREFIX}joint_blocks.") for key in keys)


def is_sd35(keys: Iterable[str]) -> bool:
    """Whether these are a Stable Diffusion 3.5's, which norms its queries and keys."""
    return any(_NORMED.match(key) for key in keys)


def kind(keys: Iterable[str]) -> str:
    """What a file that is not what was hoped for looks like, to be said in an error."""
    names = list(keys)
    for pattern, meaning in _KINDS:
        if any(re.match(pattern, name) for name in names):
            return meaning
    return "no diffusion model that this worker knows"


def is_unused(key: str) -> bool:
    """Whether a tensor is known to be of no use here."""
    return _UNUSED.match(key) is not None


def unknown(keys: Iterable[str]) -> list[str]:
    """Names in a single file that belong to no part and are not known to be of no use."""
    prefixes = (TRANSFORMER_PREFIX, VAE_PREFIX, *CLIP_PREFIXES.values())
    return sorted(key for key in keys if not key.startswith(prefixes) and not is_unused(key))


def transformer(
    stored: Mapping[str, StoredTensor], *, last_block: int | None = None
) -> dict[str, Source]:
    """Parameters of SD3Transformer2DModel; empty when the file holds none.

    Args:
        stored: of the file, by name.
        last_block: its number, where the file may lack it.
    """
    tensors = _under(stored, TRANSFORMER_PREFIX)
    if last_block is None:
        blocks = [int(key.split(".")[1]) for key in tensors if key.startswith("joint_blocks.")]
        last_block = max(blocks, default=0)
    # Neither has a gate, and diffusers takes the scale first where the file has the shift.
    swapped = (
        "final_layer.adaLN_modulation.1.",
        f"joint_blocks.{last_block}.context_block.adaLN_modulation.1.",
    )
    named: dict[str, Source] = {}
    for key, tensor in tensors.items():
        rows = tensor.shape[0]
        fused = _FUSED.fullmatch(key)
        if fused:
            block, stream, attention, kind_ = fused.groups()
            third = rows // 3
            for index, name in enumerate(_FUSED_NAMES[stream]):
                named[f"transformer_blocks.{block}.{attention}.{name}.{kind_}"] = tensor.rows(
                    (index * third, (index + 1) * third)
                )
        elif key.startswith(swapped):
            named[_renamed(key, _TRANSFORMER_NAMES)] = tensor.rows(
                (rows // 2, rows), (0, rows // 2)
            )
        else:
            named[_renamed(key, _TRANSFORMER_NAMES)] = tensor
    return named


def vae(stored: Mapping[str, StoredTensor]) -> dict[str, Source]:
    """Parameters of AutoencoderKL; empty when the file holds none."""
    tensors = _under(stored, VAE_PREFIX)
    levels = [int(key.split(".")[2]) for key in tensors if key.startswith("decoder.up.")]
    named: dict[str, Source] = {}
    for key, tensor in tensors.items():
        counted = key
        if key.startswith("decoder.up."):
            # The file counts from the picture inwards, diffusers from the latent outwards.
            _, _, level, rest = key.split(".", 3)
            counted = f"decoder.up_blocks.{max(levels) - int(level)}.{rest}"
        name = _renamed(counted, _VAE_NAMES)
        convolution = ".attentions.0." in name and len(tensor.shape) > 2
        named[name] = tensor.without_trailing_ones() if convolution else tensor
    return named


def clip(stored: Mapping[str, StoredTensor], *, part: str) -> dict[str, Source]:
    """Parameters of one CLIPTextModelWithProjection inside a single file; empty if it has none."""
    return _clip(_under(stored, CLIP_PREFIXES[part]), part=part)


def lone_clip(stored: Mapping[str, StoredTensor], *, part: str) -> dict[str, Source]:
    """The same from a file of its own; empty when it is no CLIP in transformers' naming."""
    for prefix in _LONE_CLIP_PREFIXES:
        if f"{prefix}{TOKEN_EMBEDDING}" in stored:
            return _clip(_under(stored, prefix), part=part)
    return {}


def _clip(tensors: Mapping[str, StoredTensor], *, part: str) -> dict[str, Source]:
    named: dict[str, Source] = dict(tensors)
    if part == "text_encoder" and TOKEN_EMBEDDING in tensors:
        embedding = tensors[TOKEN_EMBEDDING]
        named[_CLIP_PROJECTION] = IdentityMatrix(width=embedding.shape[-1], dtype=embedding.dtype)
    return named


def _under(stored: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in stored.items()
        if key.startswith(prefix) and not is_unused(key)
    }


def _renamed(key: str, names: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key
