"""Loading against diffusers' own: the same weights from every layout, once in memory."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors.torch import load_file, save_file

from benchmarks import sd3_checkpoint_layout as layout
from edge_node.worker import sd3_configs, tiny_sd3
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.model_files import CLIP_PARTS, ModelFiles, find
from edge_node.worker.sd3_parts import Sd3Parts, load_parts
from tests.worker import small_sd3

pytestmark = pytest.mark.model

torch.set_num_threads(1)
CPU = torch.device("cpu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return small_sd3.write_config_folder(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("checkpoint") / "sd3_medium_incl_clips.safetensors"
    return small_sd3.write_single_file(path)


def by_diffusers(
    path: pathlib.Path, config_folder: pathlib.Path, dtype: torch.dtype
) -> dict[str, torch.nn.Module]:
    """The oracle: what diffusers' own loading of a single file makes of it."""
    options: dict[str, Any] = {
        "config": str(config_folder),
        "torch_dtype": dtype,
        "local_files_only": True,
    }
    modules = {
        "transformer": diffusers.SD3Transformer2DModel.from_single_file(
            str(path), subfolder="transformer", **options
        ),
        "vae": diffusers.AutoencoderKL.from_single_file(str(path), subfolder="vae", **options),
    }
    for part in CLIP_PARTS:
        modules[part] = create_diffusers_clip_model_from_ldm(
            transformers.CLIPTextModelWithProjection,
            load_file(path),
            subfolder=part,
            config=str(config_folder),
            torch_dtype=dtype,
            local_files_only=True,
        )
    return modules


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: pathlib.Path, config_folder: pathlib.Path
) -> pathlib.Path:
    """The checkpoint's weights as diffusers saves them."""
    target = pathlib.Path(shutil.copytree(config_folder, tmp_path_factory.mktemp("folder") / "sd3"))
    for part, module in by_diffusers(checkpoint, config_folder, torch.float16).items():
        module.save_pretrained(target / part)
    return target


def loaded(files: ModelFiles, dtype: torch.dtype = torch.float16) -> Sd3Parts:
    return load_parts(files, device=CPU, dtype=dtype)


def modules_of(parts: Sd3Parts) -> dict[str, torch.nn.Module]:
    clips = dict(zip(CLIP_PARTS, (encoder for _, encoder in parts.clips), strict=True))
    return {"transformer": parts.transformer, "vae": parts.vae, **clips}


def assert_equal(
    ours: Mapping[str, torch.nn.Module], theirs: Mapping[str, torch.nn.Module]
) -> None:
    assert ours.keys() == theirs.keys()
    for part, module in ours.items():
        wanted = dict(theirs[part].named_parameters()) | dict(theirs[part].named_buffers())
        found = dict(module.named_parameters()) | dict(module.named_buffers())
        assert found.keys() == wanted.keys()
        for name, tensor in found.items():
            assert tensor.dtype == wanted[name].dtype, f"{part} {name}"
            assert torch.equal(tensor, wanted[name]), f"{part} {name}"


# The same as diffusers.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_single_file_is_loaded_as_diffusers_loads_it(
    checkpoint: pathlib.Path, config_folder: pathlib.Path, dtype: torch.dtype
) -> None:
    parts = loaded(find(checkpoint, config_folder=config_folder), dtype)
    assert_equal(modules_of(parts), by_diffusers(checkpoint, config_folder, dtype))


@pytest.mark.parametrize("stored", ["BF16", "F32", "F64"])
def test_weights_of_every_dtype_are_converted(
    tmp_path: pathlib.Path, config_folder: pathlib.Path, stored: str
) -> None:
    path = small_sd3.write_single_file(tmp_path / "x.safetensors", dtype=stored)
    files = find(path, config_folder=config_folder)
    for dtype in (torch.float16, torch.float32):
        assert_equal(modules_of(loaded(files, dtype)), by_diffusers(path, config_folder, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_folder_is_loaded_as_diffusers_loads_it(folder: pathlib.Path, dtype: torch.dtype) -> None:
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder,
        text_encoder_3=None,
        tokenizer_3=None,
        dtype=dtype,
        local_files_only=True,
    )
    theirs = {part: getattr(pipe, part) for part in ("transformer", "vae", *CLIP_PARTS)}
    assert_equal(modules_of(loaded(find(folder), dtype)), theirs)


def test_the_additions_of_sd35_are_loaded_as_diffusers_loads_them(tmp_path: pathlib.Path) -> None:
    configs = small_sd3.write_config_folder(tmp_path / "configs", small_sd3.SIZE_35)
    path = small_sd3.write_single_file(tmp_path / "sd35.safetensors", size=small_sd3.SIZE_35)
    parts = loaded(find(path, config_folder=configs))
    assert "transformer_blocks.1.attn2.norm_q.weight" in parts.transformer.state_dict()
    assert_equal(modules_of(parts), by_diffusers(path, configs, torch.float16))


def test_every_layout_holds_the_same_model(
    tmp_path: pathlib.Path,
    checkpoint: pathlib.Path,
    folder: pathlib.Path,
    config_folder: pathlib.Path,
) -> None:
    sharded = pathlib.Path(shutil.copytree(folder, tmp_path / "sharded"))
    whole = sharded / "transformer" / "diffusion_pytorch_model.safetensors"
    diffusers.SD3Transformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.float16
    ).save_pretrained(sharded / "transformer", max_shard_size="100KB")
    whole.unlink()
    variant = pathlib.Path(shutil.copytree(folder, tmp_path / "variant"))
    (variant / "vae" / "diffusion_pytorch_model.safetensors").rename(
        variant / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    )
    apart = small_sd3.write_apart(tmp_path / "apart")
    for name, prefix in (("clip_l", layout.CLIP_L), ("clip_g", layout.CLIP_G)):
        tensors = {
            key.removeprefix(prefix): tensor
            for key, tensor in load_file(checkpoint).items()
            if key.startswith(prefix)
        }
        save_file(tensors, apart.parent / "text_encoders" / f"{name}.safetensors")
    with_t5 = small_sd3.write_single_file(tmp_path / "t5.safetensors", t5=True)
    first = loaded(find(checkpoint, config_folder=config_folder))
    for files in (
        find(folder),
        find(sharded),
        find(variant),
        find(apart, config_folder=config_folder),
        find(with_t5, config_folder=config_folder),
    ):
        again = loaded(files)
        assert_equal(modules_of(again), modules_of(first))
        assert again.fingerprint == first.fingerprint, files.path


def test_the_tiny_model_is_loaded_as_diffusers_loads_it() -> None:
    path = tiny_sd3.model_folder()
    parts = loaded(find(path), torch.float32)
    theirs = diffusers.SD3Transformer2DModel.from_pretrained(path / "transformer")
    assert_equal({"transformer": parts.transformer}, {"transformer": theirs})
    tokens = parts.clips[0][0]("a red circle").input_ids
    assert (
        tokens
        == transformers.CLIPTokenizer.from_pretrained(path / "tokenizer")("a red circle").input_ids
    )


# What is on the device.


def test_parts_are_whole_and_at_rest(checkpoint: pathlib.Path, config_folder: pathlib.Path) -> None:
    parts = loaded(find(checkpoint, config_folder=config_folder))
    weight_bytes = 0
    for module in modules_of(parts).values():
        assert not module.training
        for tensor in (*module.parameters(), *module.buffers()):
            assert tensor.device == CPU
            assert not tensor.requires_grad
        weight_bytes += sum(tensor.nbytes for tensor in module.state_dict().values())
    assert parts.weight_bytes == weight_bytes
    for _, encoder in parts.clips:
        positions = encoder.text_model.embeddings.position_ids
        assert positions.tolist() == [list(range(77))]
    assert parts.scheduler_config["num_train_timesteps"] == 1000
    assert parts.scheduler_config["shift"] == 3.0
    assert not parts.scheduler_config["use_karras_sigmas"]


def test_the_shipped_vocabulary_tokenizes_as_clip(
    tmp_path: pathlib.Path, config_folder: pathlib.Path
) -> None:
    """Token numbers as published with CLIP; the second tokenizer pads with an exclamation mark."""
    clip_l, clip_g = (
        dataclasses.replace(clip, tokens=49408)
        for clip in (small_sd3.SIZE.clip_l, small_sd3.SIZE.clip_g)
    )
    size = dataclasses.replace(small_sd3.SIZE, clip_l=clip_l, clip_g=clip_g)
    configs = small_sd3.write_config_folder(tmp_path / "configs", size)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(configs / name)
        shutil.copytree(sd3_configs.config_folder() / name, configs / name)
    path = small_sd3.write_single_file(tmp_path / "x.safetensors", size=size)
    (first, _), (second, _) = loaded(find(path, config_folder=configs)).clips
    cat = [49406, 320, 1125, 539, 320, 2368, 49407]
    encode: Any = functools.partial(dict, padding="max_length", max_length=77, truncation=True)
    assert first("a photo of a cat", **encode()).input_ids == cat + 70 * [49407]
    assert second("a photo of a cat", **encode()).input_ids == cat + 70 * [0]
    assert len(first("cat " * 100, **encode()).input_ids) == 77
    assert (first.model_max_length, second.model_max_length) == (77, 77)


# What is refused.


def changed(config_folder: pathlib.Path, target: pathlib.Path, part: str, **settings: Any) -> Any:
    """A copy of the configs with other settings of one part."""
    copied = pathlib.Path(shutil.copytree(config_folder, target / f"{part}-changed"))
    config_path = next((copied / part).glob("*config.json"))
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | settings))
    return copied


@pytest.mark.parametrize(
    ("part", "settings", "told"),
    [
        ("transformer", {"num_layers": 4}, r"lacks transformer_blocks\.2\.attn\.to_add_out"),
        ("transformer", {"qk_norm": "rms_norm"}, r"lacks .*norm_added_k.* and 9 more"),
        ("vae", {"latent_channels": 8}, r"encoder\.conv_out\.|decoder\.conv_in\."),
        ("text_encoder", {"num_hidden_layers": 1}, r"text_encoder .* has .*layers\.1\..* too much"),
        ("text_encoder_2", {"vocab_size": 300}, r"token_embedding.*\[191, 24\].*\[300, 24\]"),
        ("transformer", {"num_attention_heads": "many"}, "cannot be built from its config"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "DDIMScheduler, which this worker"),
    ],
)
def test_a_config_of_another_model_is_refused(
    tmp_path: pathlib.Path,
    checkpoint: pathlib.Path,
    config_folder: pathlib.Path,
    part: str,
    settings: dict[str, Any],
    told: str,
) -> None:
    other = changed(config_folder, tmp_path, part, **settings)
    with pytest.raises(ModelUnusable, match=told):
        loaded(find(checkpoint, config_folder=other))


def test_a_small_checkpoint_without_its_config_names_the_tensor(checkpoint: pathlib.Path) -> None:
    with pytest.raises(ModelUnusable, match=r"transformer .*does not fit its config.*model-config"):
        loaded(find(checkpoint))


def test_a_vocabulary_too_large_for_its_encoder_is_refused(
    tmp_path: pathlib.Path, checkpoint: pathlib.Path, config_folder: pathlib.Path
) -> None:
    copied = pathlib.Path(shutil.copytree(config_folder, tmp_path / "copy"))
    (copied / "tokenizer_2" / "vocab.json").unlink()
    with pytest.raises(ModelUnusable, match="tokens beyond the 191"):
        loaded(find(checkpoint, config_folder=copied))


def test_weights_in_eight_bits_are_refused(
    tmp_path: pathlib.Path, config_folder: pathlib.Path
) -> None:
    path = tmp_path / "x.safetensors"
    shapes = layout.single_file(small_sd3.SIZE, clips=True, t5=False)
    layout.write(path, shapes, dtype="F16", hole={layout.VAE: "F8_E4M3"})
    with pytest.raises(ModelUnusable, match=r"stored as F8_E4M3.*use weights in one of"):
        loaded(find(path, config_folder=config_folder))


def test_the_fingerprint_follows_weights_vocabulary_and_settings_and_nothing_else(
    tmp_path: pathlib.Path, checkpoint: pathlib.Path, config_folder: pathlib.Path
) -> None:
    def fingerprint(path: pathlib.Path, configs: pathlib.Path) -> str:
        return loaded(find(path, config_folder=configs)).fingerprint

    first = fingerprint(checkpoint, config_folder)
    other_weights = small_sd3.write_single_file(tmp_path / "x.safetensors", seed=5)
    changes = {
        "vae": {"scaling_factor": 1.0},
        "text_encoder": {"hidden_act": "gelu"},
        "scheduler": {"shift": 1.0},
        "tokenizer": {"pad_token": "!"},
    }
    found = [first, fingerprint(other_weights, config_folder)]
    found += [
        fingerprint(checkpoint, changed(config_folder, tmp_path, part, **settings))
        for part, settings in changes.items()
    ]
    assert len(set(found)) == len(found)
    untold = changed(config_folder, tmp_path, "transformer", _diffusers_version="0.1.0")
    assert fingerprint(checkpoint, untold) == first
    # The dtype on the device is the node's choice, not the model's.
    assert loaded(find(checkpoint, config_folder=config_folder), torch.float32).fingerprint == first


# How much is read and held.


def bytes_read() -> int:
    line = pathlib.Path("/proc/self/io").read_text().splitlines()[0]
    assert line.startswith("rchar")
    return int(line.split()[1])


def test_t5_is_passed_over_unread_and_the_rest_read_once(
    tmp_path: pathlib.Path, config_folder: pathlib.Path
) -> None:
    path = small_sd3.write_single_file(tmp_path / "t5.safetensors", t5=True)
    assert path.stat().st_size > 4e9
    loaded(find(path, config_folder=config_folder))
    files = find(path, config_folder=config_folder)
    before = bytes_read()
    parts = loaded(files)
    assert bytes_read() - before < parts.weight_bytes + 200_000


PEAK = """
import json, pathlib, sys
import torch
torch.set_num_threads(1)
from edge_node.worker.model_files import find
from edge_node.worker.sd3_parts import load_parts
from edge_node.worker import sd3_configs

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def load(path, configs):
    files = find(path, config_folder=configs)
    return load_parts(files, device=torch.device("cpu"), dtype=getattr(torch, sys.argv[4]))

paths = [pathlib.Path(argument) for argument in sys.argv[1:4]]
# Once in small, so that code that is imported late is not counted as weights.
load(paths[0], paths[1].parent / "small")
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
parts = load(paths[2], paths[1])
print(json.dumps({"peak": status("VmHWM") - before, "weights": parts.weight_bytes}))
"""


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_loading_holds_the_weights_once(
    tmp_path: pathlib.Path, checkpoint: pathlib.Path, dtype: str
) -> None:
    size = dataclasses.replace(small_sd3.SIZE, layers=6, width=768)
    small_sd3.write_config_folder(tmp_path / "small")
    configs = small_sd3.write_config_folder(tmp_path / "large", size)
    large = small_sd3.write_single_file(tmp_path / "large.safetensors", size=size)
    command = [sys.executable, "-c", PEAK, str(checkpoint), str(configs), str(large), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["weights"] > 100e6
    assert result["peak"] <= 1.1 * result["weights"] + 16e6
