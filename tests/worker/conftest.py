"""A whole SD3 folder of a few thousand random weights, made once per test run."""

from __future__ import annotations

import json
import pathlib

import pytest


@pytest.fixture(scope="session")
def random_sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = tmp_path_factory.mktemp("models") / "random-sd3"
    # With more, OpenMP's threads spin at their barriers while a neighbour holds the other core.
    torch.set_num_threads(1)
    torch.manual_seed(7)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=40,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=12,
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    vocabulary = _write_tokenizers(folder)
    for name, activation in (("text_encoder", "quick_gelu"), ("text_encoder_2", "gelu")):
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                projection_dim=16,
                hidden_act=activation,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                pad_token_id=vocabulary - 1,
            )
        ).save_pretrained(folder / name)
    _write_index(folder)
    return folder


def _write_tokenizers(folder: pathlib.Path) -> int:
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "re</w>", "<|startoftext|>"]
    tokens.append("<|endoftext|>")
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        (folder / name / "vocab.json").write_text(
            json.dumps({token: number for number, token in enumerate(tokens)})
        )
        (folder / name / "merges.txt").write_text("#version: 0.2\nr e</w>\n")
        (folder / name / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "CLIPTokenizer",
                    "model_max_length": 77,
                    "bos_token": "<|startoftext|>",
                    "eos_token": "<|endoftext|>",
                    "unk_token": "<|endoftext|>",
                    "pad_token": "<|endoftext|>",
                }
            )
        )
    return len(tokens)


def _write_index(folder: pathlib.Path) -> None:
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusion3Pipeline", **parts})
    )
