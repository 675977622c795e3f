"""LoRAs as variants: they draw as diffusers does with such weights; what does not fit is said."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import sd3_checkpoint_layout as layout
from edge_node.clock import SystemClock
from edge_node.worker import lora, model_files, sd3_checkpoint, sd3_parts
from edge_node.worker.approximations import Approximations
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.safetensors_file import StoredTensor
from edge_node.worker.sd3 import Sd3Denoiser, Sd3Options
from tests.worker.oracle import Pipelines, alone, denoiser, drawing
from tests.worker.small_sd3 import SIZE_35

pytestmark = pytest.mark.model
RANK, LAST_BLOCK = 2, 1
# Of each part what LoRAs change most, and what few do.
MODULES = {
    "transformer": (
        *(f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *("transformer_blocks.0.attn.add_q_proj", "transformer_blocks.0.attn.to_add_out"),
        *("transformer_blocks.1.ff.net.0.proj", "transformer_blocks.1.norm1_context.linear"),
        *("context_embedder", "time_text_embed.text_embedder.linear_1", "norm_out.linear"),
    ),
    "text_encoder": ("text_model.encoder.layers.1.self_attn.q_proj",),
    "text_encoder_2": ("text_model.encoder.layers.0.mlp.fc2",),
}

Matrices = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]


def loaded(folder: pathlib.Path, loras: pathlib.Path, **strengths: float) -> Sd3Denoiser:
    files = model_files.find(folder)
    found = lora.find(loras, strengths=strengths, last_block=LAST_BLOCK)
    worker = Sd3Denoiser(
        lambda device, dtype: sd3_parts.load_parts(files, device=device, dtype=dtype, loras=found),
        options=Sd3Options(model_name="m", dtype_name="float64"),
        clock=SystemClock(),
    )
    worker.load()
    return worker


def modules_of(pipes: Pipelines) -> dict[str, torch.nn.Module]:
    pipe = pipes.text
    return {part: getattr(pipe, part) for part in MODULES}


@pytest.fixture
def oracle(random_sd3_folder: pathlib.Path) -> Pipelines:
    return Pipelines(random_sd3_folder, torch.float64, unrounded=True)


@pytest.fixture
def matrices(oracle: Pipelines) -> Matrices:
    """A and B by part and module; the three of a fused layer share A, as kohya's do."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.2

    made: Matrices = {}
    shared = None
    for part, module in modules_of(oracle).items():
        for name in MODULES[part]:
            out, into = module.get_submodule(name).weight.shape  # type: ignore[misc]
            if name.endswith("to_q"):
                shared = drawn(RANK, into)
            fused = name.endswith(("to_q", "to_k", "to_v"))
            down = shared if fused and shared is not None else drawn(RANK, into)
            made[part, name] = (down, drawn(out, RANK))
    return made


def with_added(pipes: Pipelines, matrices: Matrices, times: float) -> Pipelines:
    """The oracle with the sums in its weights."""
    modules = modules_of(pipes)
    with torch.no_grad():
        for (part, name), (down, up) in matrices.items():
            modules[part].get_submodule(name).weight += times * (up @ down)  # type: ignore[operator]
    return pipes


def save(path: pathlib.Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({name: one.contiguous().clone() for name, one in tensors.items()}, path, metadata)


def as_diffusers(matrices: Matrices) -> dict[str, torch.Tensor]:
    pairs = {}
    for (part, name), (down, up) in matrices.items():
        pairs[f"{part}.{name}.lora_A.weight"], pairs[f"{part}.{name}.lora_B.weight"] = down, up
    return pairs


def as_kohya(matrices: Matrices, alpha: float) -> dict[str, torch.Tensor]:
    """The same by the names and the order of the single files, fused where these are."""
    transformer = {name: pair for (part, name), pair in matrices.items() if part == "transformer"}
    attention = "transformer_blocks.0.attn."
    query, key, value = (transformer[f"{attention}to_{one}"] for one in "qkv")
    block = "lora_unet_joint_blocks_"

    def swapped(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        down, up = transformer[name]  # diffusers has the scale first here, the file the shift
        return down, torch.cat(up.chunk(2)[::-1])

    pairs = {
        f"{block}0_x_block_attn_qkv": (query[0], torch.cat([query[1], key[1], value[1]])),
        f"{block}0_x_block_attn_proj": transformer[f"{attention}to_out.0"],
        f"{block}0_context_block_attn_proj": transformer[f"{attention}to_add_out"],
        f"{block}1_x_block_mlp_fc1": transformer["transformer_blocks.1.ff.net.0.proj"],
        f"{block}1_context_block_adaLN_modulation_1": swapped(
            "transformer_blocks.1.norm1_context.linear"
        ),
        "lora_unet_context_embedder": transformer["context_embedder"],
        "lora_unet_y_embedder_mlp_0": transformer["time_text_embed.text_embedder.linear_1"],
        "lora_unet_final_layer_adaLN_modulation_1": swapped("norm_out.linear"),
    }
    for number, part in enumerate(("text_encoder", "text_encoder_2"), start=1):
        [name] = MODULES[part]
        pairs[f"lora_te{number}_{name.replace('.', '_')}"] = matrices[part, name]
    tensors: dict[str, torch.Tensor] = {}
    for name, (down, up) in pairs.items():
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.bfloat16)
    return tensors


def test_a_variant_draws_as_the_pipeline_with_such_weights(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path, oracle: Pipelines, matrices: Matrices
) -> None:
    save(tmp_path / "ink.safetensors", as_diffusers(matrices))
    plain = denoiser(random_sd3_folder, "float64")
    worker = loaded(random_sd3_folder, tmp_path)
    one = drawing(prompt="a red circle", negative_prompt="blue", steps=4)
    own_CHW = alone(worker, one).latent_CHW
    assert torch.equal(own_CHW, alone(plain, one).latent_CHW), "the model itself is as it was"
    ink = dataclasses.replace(one, model="m+ink")
    ink_CHW = alone(worker, ink).latent_CHW
    assert (ink_CHW - own_CHW).abs().max() > 0.01
    expected_CHW = with_added(oracle, matrices, 1.0).latent(one)
    assert (ink_CHW - expected_CHW).abs().max() <= 1e-9


@pytest.mark.parametrize(("alpha", "strength"), [(2.0, 1.0), (1.0, 1.0), (4.0, 0.25), (2.0, -1.0)])
def test_kohyas_names_mean_the_same(
    random_sd3_folder: pathlib.Path,
    tmp_path: pathlib.Path,
    oracle: Pipelines,
    matrices: Matrices,
    alpha: float,
    strength: float,
) -> None:
    del matrices["transformer", "transformer_blocks.0.attn.add_q_proj"]  # it has no part of one
    save(tmp_path / "oil.safetensors", as_kohya(matrices, alpha))
    worker = loaded(random_sd3_folder, tmp_path, oil=strength)
    one = drawing(prompt="a red circle", steps=3)
    drawn_CHW = alone(worker, dataclasses.replace(one, model="m+oil")).latent_CHW
    expected_CHW = with_added(oracle, matrices, strength * alpha / RANK).latent(one)
    assert (drawn_CHW - expected_CHW).abs().max() <= 1e-9


def test_pefts_alpha_is_in_the_metadata(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path, oracle: Pipelines, matrices: Matrices
) -> None:
    matrices = {key: pair for key, pair in matrices.items() if key[0] == "transformer"}
    told = json.dumps({"transformer.lora_alpha": 1, "transformer.r": RANK})
    save(tmp_path / "ink.safetensors", as_diffusers(matrices), lora_adapter_metadata=told)
    one = drawing(steps=3)
    worker = loaded(random_sd3_folder, tmp_path)
    drawn_CHW = alone(worker, dataclasses.replace(one, model="m+ink")).latent_CHW
    expected_CHW = with_added(oracle, matrices, 0.5).latent(one)
    assert (drawn_CHW - expected_CHW).abs().max() <= 1e-9


def test_rows_of_several_variants_step_together_as_each_alone(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path, matrices: Matrices
) -> None:
    for name in ("ink", "oil"):
        save(tmp_path / f"{name}.safetensors", as_diffusers(matrices))
    worker = loaded(random_sd3_folder, tmp_path, oil=-0.5)
    drawings = [
        drawing(seed=seed, steps=3, model=model)
        for seed, model in enumerate(("m", "m+ink", "m+oil", "m+ink", ""))
    ]
    rows = [worker.begin(one, b"") for one in drawings]
    for _ in range(3):
        worker.step(rows)
    for row, one in zip(rows, drawings, strict=True):
        assert (row.latent_CHW - alone(worker, one).latent_CHW).abs().max() <= 1e-9


def test_variants_share_what_they_do_not_change_and_are_told_apart(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path, matrices: Matrices
) -> None:
    some = {key: pair for key, pair in matrices.items() if key[1].endswith("to_q")}
    save(tmp_path / "ink.safetensors", as_diffusers(some))
    files = model_files.find(random_sd3_folder)

    def parts(**strengths: float) -> sd3_parts.Sd3Parts:
        found = lora.find(tmp_path, strengths=strengths, last_block=LAST_BLOCK)
        cpu = torch.device("cpu")
        return sd3_parts.load_parts(files, device=cpu, dtype=torch.float32, loras=found)

    whole = parts()
    [variant] = whole.variants
    own = dict(whole.transformer.named_parameters())
    differing = {
        name
        for name, weight in variant.transformer.named_parameters()
        if weight.data_ptr() != own[name].data_ptr()
    }
    assert differing == {"transformer_blocks.0.attn.to_q.weight"}
    assert variant.clips[0][1] is whole.clips[0][1]
    [weaker] = parts(ink=0.5).variants
    fingerprints = {whole.fingerprint, variant.fingerprint, weaker.fingerprint}
    assert len(fingerprints) == 3
    assert parts().variants[0].fingerprint == variant.fingerprint
    assert loaded(random_sd3_folder, tmp_path).load().variants[0][0] == "m+ink"


def test_kohyas_names_are_those_of_the_single_files_without_dots() -> None:
    shapes = {key: one for key, one in layout.transformer(SIZE_35).items() if len(one) == 2}
    for key, shape in shapes.items():
        if not key.endswith(".weight"):
            continue
        dotted = key.removeprefix(layout.TRANSFORMER).removesuffix(".weight")
        up = StoredTensor(
            path=pathlib.Path("x"), key=key, dtype="F32", shape=shape, ranges=((0, 4 * shape[0]),)
        )
        stored = {f"{layout.TRANSFORMER}{dotted}.weight": up}
        last_block = SIZE_35.layers - 1
        expected = sd3_checkpoint.transformer(stored, last_block=last_block)
        module = f"lora_unet_{dotted.replace('.', '_')}"
        found = lora._targets(pathlib.Path("x"), module, up, last_block=last_block)
        assert {name: rows for _, name, rows in found} == expected, key


GOOD_A, GOOD_B = torch.ones(2, 32), torch.ones(32, 2)
TO_Q = "transformer.transformer_blocks.0.attn.to_q"
GOOD = {f"{TO_Q}.lora_A.weight": GOOD_A, f"{TO_Q}.lora_B.weight": GOOD_B}
QKV = "lora_unet_joint_blocks_0_x_block_attn_qkv"
FLUX = "lora_unet_double_blocks_0_img_attn_qkv"
BAD: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a checkpoint": ({"model.diffusion_model.joint_blocks.0.x": GOOD_A}, "looks like"),
    "a DoRA": ({**GOOD, f"{TO_Q}.dora_scale": GOOD_A}, "holds .*dora_scale, which no LoRA"),
    "half of a pair": ({**GOOD, "transformer.x.lora_A.weight": GOOD_A}, "holds transformer.x"),
    "another model's": (
        {f"{FLUX}.lora_down.weight": GOOD_A, f"{FLUX}.lora_up.weight": GOOD_B},
        "double_blocks_0_img_attn_qkv.*for another model",
    ),
    "another part's": (
        {"unet.down.lora_A.weight": GOOD_A, "unet.down.lora_B.weight": GOOD_B},
        "unet.down in .* is nothing that Stable Diffusion 3 has",
    ),
    "ranks that differ": ({**GOOD, f"{TO_Q}.lora_B.weight": torch.ones(32, 3)}, "do not belong"),
    "another width": ({**GOOD, f"{TO_Q}.lora_A.weight": torch.ones(2, 48)}, "of shape .32, 48."),
    "not finite": ({**GOOD, f"{TO_Q}.lora_B.weight": GOOD_B * torch.inf}, "not finite"),
    "whole numbers": ({**GOOD, f"{TO_Q}.lora_A.weight": GOOD_A.to(torch.int32)}, "stored as I32"),
    "a weight under two names": (
        {**GOOD, f"{QKV}.lora_down.weight": GOOD_A, f"{QKV}.lora_up.weight": torch.ones(96, 2)},
        "changes transformer_blocks.0.attn.to_q.weight of the transformer twice",
    ),
    "rows that three cannot share": (
        {f"{QKV}.lora_down.weight": GOOD_A, f"{QKV}.lora_up.weight": torch.ones(97, 2)},
        "has 97 rows, which the 3 weights",
    ),
    "no number as alpha": ({**GOOD, f"{TO_Q}.alpha": torch.ones(2)}, "is no number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_lora_for_this_model_is_said(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    tensors, why = BAD[kind]
    save(tmp_path / "loras" / "ink.safetensors", tensors)
    with pytest.raises(ModelUnusable, match=rf"(?s){why}") as refused:
        loaded(random_sd3_folder, tmp_path / "loras")
    assert "ink.safetensors" in str(refused.value)


@pytest.mark.parametrize("setting", ["use_dora", "use_rslora", "alpha_pattern"])
def test_a_lora_of_another_kind_is_said(tmp_path: pathlib.Path, setting: str) -> None:
    told = json.dumps({"transformer.lora_alpha": 1, f"transformer.{setting}": {"x": 1}})
    save(tmp_path / "ink.safetensors", GOOD, lora_adapter_metadata=told)
    with pytest.raises(ModelUnusable, match="save it as a plain one"):
        lora.find(tmp_path, strengths={}, last_block=LAST_BLOCK)


@pytest.mark.parametrize("alpha", ["8", {}, [1]])
def test_an_alpha_that_is_no_number_is_said(tmp_path: pathlib.Path, alpha: object) -> None:
    told = json.dumps({"transformer.lora_alpha": alpha})
    save(tmp_path / "ink.safetensors", GOOD, lora_adapter_metadata=told)
    with pytest.raises(ModelUnusable, match=r"lora_alpha of the transformer .* is no number"):
        lora.find(tmp_path, strengths={}, last_block=LAST_BLOCK)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bfloat16])
def test_kohyas_alpha_may_be_a_whole_number(tmp_path: pathlib.Path, dtype: torch.dtype) -> None:
    save(tmp_path / "ink.safetensors", {**GOOD, f"{TO_Q}.alpha": torch.tensor(4, dtype=dtype)})
    (found,) = lora.find(tmp_path, strengths={}, last_block=LAST_BLOCK)
    assert [one.scale for one in found.changes["transformer"].values()] == [2.0]


def test_eight_bit_weights_and_loras_do_not_go_together(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    save(tmp_path / "ink.safetensors", GOOD)
    files = model_files.find(random_sd3_folder)
    found = lora.find(tmp_path, strengths={}, last_block=LAST_BLOCK)
    worker = Sd3Denoiser(
        lambda device, dtype: sd3_parts.load_parts(files, device=device, dtype=dtype, loras=found),
        options=Sd3Options(model_name="m", approximations=Approximations(int8_weights=True)),
        clock=SystemClock(),
    )
    with pytest.raises(ModelUnusable, match="do not go together"):
        worker.load()


def test_a_folder_that_is_not_as_the_settings_say_is_said(tmp_path: pathlib.Path) -> None:
    def found(**options: Any) -> tuple[lora.LoraFile, ...]:
        settings: dict[str, Any] = {"strengths": {}, "last_block": LAST_BLOCK, **options}
        return lora.find(tmp_path / "loras", **settings)

    with pytest.raises(ModelUnusable, match="there is no such folder"):
        found()
    save(tmp_path / "loras" / "ink.safetensors", GOOD)
    assert [one.name for one in found()] == ["ink"]
    with pytest.raises(ModelUnusable, match=r"lora_strengths names oil, and .* has ink"):
        found(strengths={"oil": 0.5})
    for number in range(lora.LORAS_MAX):
        save(tmp_path / "loras" / f"{number}.safetensors", GOOD)
    with pytest.raises(ModelUnusable, match="holds 33 LoRAs: keep at most 32"):
        found()
    for number in range(lora.LORAS_MAX):
        (tmp_path / "loras" / f"{number}.safetensors").unlink()
    (tmp_path / "loras" / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelUnusable, match=r"gone\.safetensors is no file"):
        found()
    (tmp_path / "loras" / "gone.safetensors").unlink()
    save(tmp_path / "loras" / "a b.safetensors", GOOD)
    with pytest.raises(ModelUnusable, match="cannot name a variant"):
        found()
