"""Names of single files against what diffusers makes of the same files, at small and full size."""

from __future__ import annotations

import itertools
import json
import math
import pathlib

import pytest

from benchmarks import sd3_checkpoint_layout as layout
from edge_node.worker import model_files, sd3_checkpoint, sd3_configs
from edge_node.worker.safetensors_file import StoredTensor
from tests.worker import small_sd3

# Bytes of weights in the published fp16 files: their lengths less their headers'.
PUBLISHED_BYTES = {False: 4_337_541_574, True: 5_972_982_214}


def ranges(source: object) -> tuple[tuple[int, int], ...]:
    assert isinstance(source, StoredTensor)
    return source.ranges


def stored(shapes: layout.Shapes) -> dict[str, StoredTensor]:
    """What a header with these tensors, one after the other in fp16, would say."""
    sizes = [2 * math.prod(shape) for shape in shapes.values()]
    stops = list(itertools.accumulate(sizes))
    return {
        key: StoredTensor(
            path=pathlib.Path("x"), key=key, dtype="F16", shape=shape, ranges=((stop - size, stop),)
        )
        for (key, shape), size, stop in zip(shapes.items(), sizes, stops, strict=True)
    }


def parts_of(shapes: layout.Shapes) -> dict[str, dict[str, sd3_checkpoint.Source]]:
    header = stored(shapes)
    return {
        "transformer": sd3_checkpoint.transformer(header),
        "vae": sd3_checkpoint.vae(header),
        **{part: sd3_checkpoint.clip(header, part=part) for part in model_files.CLIP_PARTS},
    }


@pytest.mark.parametrize("clips", [False, True])
def test_the_written_layout_is_as_large_as_the_published_files(clips: bool) -> None:
    shapes = layout.single_file(layout.Sd3Size(), clips=clips, t5=False)
    assert 2 * sum(map(math.prod, shapes.values())) == PUBLISHED_BYTES[clips]


@pytest.mark.model
def test_full_size_names_and_shapes_are_those_of_the_modules() -> None:
    import diffusers
    import torch
    import transformers

    def config(part: str) -> dict[str, object]:
        path = sd3_configs.config_folder() / part / "config.json"
        content = json.loads(path.read_text())
        assert isinstance(content, dict)
        return content

    with torch.device("meta"):
        modules = {
            "transformer": diffusers.SD3Transformer2DModel.from_config(config("transformer")),
            "vae": diffusers.AutoencoderKL.from_config(config("vae")),
            **{
                part: transformers.CLIPTextModelWithProjection(
                    transformers.CLIPTextConfig.from_dict(config(part))
                )
                for part in model_files.CLIP_PARTS
            },
        }
    named = parts_of(layout.single_file(layout.Sd3Size(), clips=True, t5=True))
    counts = {}
    for part, module in modules.items():
        counts[part] = sum(parameter.numel() for parameter in module.parameters())
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        assert {name: source.shape for name, source in named[part].items()} == wanted
    # docs/facts.md.
    assert counts == {
        "transformer": 2_028_328_000,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
    }


def test_a_fused_tensor_is_cut_into_thirds_of_its_rows() -> None:
    named = sd3_checkpoint.transformer(
        stored({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (6, 5)})
    )
    # 5 values of 2 bytes in each of 6 rows.
    assert {name.split(".")[3]: (s.shape, ranges(s)) for name, s in named.items()} == {
        "to_q": ((2, 5), ((0, 20),)),
        "to_k": ((2, 5), ((20, 40),)),
        "to_v": ((2, 5), ((40, 60),)),
    }


def test_scale_and_shift_change_places_in_the_last_context_and_the_final_layer_only() -> None:
    named = sd3_checkpoint.transformer(
        stored(
            {
                "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (6,),
                "model.diffusion_model.joint_blocks.1.context_block.adaLN_modulation.1.bias": (2,),
                "model.diffusion_model.joint_blocks.1.x_block.adaLN_modulation.1.bias": (6,),
                "model.diffusion_model.final_layer.adaLN_modulation.1.bias": (2,),
            }
        )
    )
    assert {name: ranges(source) for name, source in named.items()} == {
        "transformer_blocks.0.norm1_context.linear.bias": ((0, 12),),
        "transformer_blocks.1.norm1_context.linear.bias": ((14, 16), (12, 14)),
        "transformer_blocks.1.norm1.linear.bias": ((16, 28),),
        "norm_out.linear.bias": ((30, 32), (28, 30)),
    }


def test_the_decoder_is_counted_from_the_other_end_and_1x1_convolutions_become_linear() -> None:
    named = sd3_checkpoint.vae(
        stored(
            {
                "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (2, 4, 1, 1),
                "first_stage_model.decoder.up.2.upsample.conv.bias": (4,),
                "first_stage_model.decoder.mid.attn_1.proj_out.weight": (4, 4, 1, 1),
            }
        )
    )
    assert {name: source.shape for name, source in named.items()} == {
        "decoder.up_blocks.2.resnets.0.conv_shortcut.weight": (2, 4, 1, 1),
        "decoder.up_blocks.0.upsamplers.0.conv.bias": (4,),
        "decoder.mid_block.attentions.0.to_out.0.weight": (4, 4),
    }


def test_clip_l_gets_an_identity_for_its_projection_even_over_a_stored_one() -> None:
    shapes = layout.clip(small_sd3.SIZE.clip_l, projection=True)
    for prefix in ("", layout.CLIP_L, "transformer."):
        header = stored({prefix + name: shape for name, shape in shapes.items()})
        named = sd3_checkpoint.lone_clip(header, part="text_encoder")
        assert named["text_projection.weight"] == sd3_checkpoint.IdentityMatrix(
            width=16, dtype="F16"
        )
        second = sd3_checkpoint.lone_clip(header, part="text_encoder_2")
        assert isinstance(second["text_projection.weight"], StoredTensor)
    assert sd3_checkpoint.lone_clip({}, part="text_encoder") == {}


def test_what_is_of_no_use_is_passed_over_and_what_is_strange_is_told() -> None:
    keys = [
        "model.diffusion_model.pos_embed",
        "first_stage_model.decoder.conv_in.weight",
        "text_encoders.clip_l.logit_scale",
        "text_encoders.clip_l.transformer.text_model.embeddings.position_ids",
        "text_encoders.t5xxl.transformer.shared.weight",
        "model_ema.decay",
        "control_model.input_hint_block.0.weight",
    ]
    assert sd3_checkpoint.unknown(keys) == ["control_model.input_hint_block.0.weight"]
    assert not sd3_checkpoint.clip(stored({keys[3]: (1, 77)}), part="text_encoder")


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.double_blocks.3.img_attn.qkv.weight", "Flux"),
        ("conditioner.embedders.1.model.ln_final.bias", "XL"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "1 or 2"),
        ("model.diffusion_model.input_blocks.0.0.bias", "U-Net"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "without its VAE"),
        ("transformer_blocks.0.attn.to_q.weight", "diffusers folder"),
        ("encoder.block.0.layer.0.SelfAttention.k.weight", "T5"),
        ("text_model.final_layer_norm.bias", "CLIP"),
        ("decoder.mid.block_1.conv1.bias", "VAE"),
        ("lora_unet_joint_blocks_0.lora_down.weight", "LoRA"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "LoRA"),
        ("model.layers.0.mlp.down_proj.weight", "no diffusion model"),
    ],
)
def test_other_files_are_known_for_what_they_are(key: str, meaning: str) -> None:
    assert meaning in sd3_checkpoint.kind([key])
    assert not sd3_checkpoint.is_sd3([key])
