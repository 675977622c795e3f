"""The tiny SD3 that ships: files, tokenizers, prompts of every kind, and what it draws.

Also the pixel classifier that judges it, against drawn scenes and through the autoencoder.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_node.console import scene_classifier
from edge_node.worker.tiny_sd3 import model_folder, scenes

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.model

CANONICAL_PROMPTS = (
    "a large red circle on the left on a white background",
    "a large yellow square at the top on a blue background",
    "a large green star in the centre on a black background",
    "a large red circle on the left and a small blue square on the right on a white background",
)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Any]:
    """The stock pipeline on the shipped folder, with no way to the network."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("HF_HUB_OFFLINE", "1")
        loaded = diffusers.StableDiffusion3Pipeline.from_pretrained(
            model_folder(), text_encoder_3=None, tokenizer_3=None, local_files_only=True
        )
        loaded.set_progress_bar_config(disable=True)
        yield loaded


def draw(
    pipeline: Any,
    prompts: list[str],
    *,
    steps: int = 12,
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """Draws with the stock pipeline at its defaults; returns ``images_BHW3``."""
    images = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
        output_type="np",
    ).images
    return np.asarray(np.round(images * 255), dtype=np.uint8)


def facts(seen: scene_classifier.SeenScene) -> set[tuple[str, ...]]:
    return {(item.size, item.colour, item.shape, item.position) for item in seen.objects}


def wanted(scene: scenes.Scene) -> set[tuple[str, ...]]:
    return {(item.size, item.colour, item.shape, item.position) for item in scene.objects}


# ---------------------------------------------------------------- the folder


def test_folder_is_small_and_all_weights_are_fp16() -> None:
    from safetensors import safe_open

    files = [path for path in model_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == {
        "transformer",
        "vae",
        "text_encoder",
        "text_encoder_2",
    }
    for path in weights:
        with safe_open(path, framework="np") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds == {"F16"}, path
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".ckpt"}]


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys; from edge_node.worker.tiny_sd3 import model_folder, scenes;"
        "assert model_folder().name == 'model'; sys.exit('torch' in sys.modules)"
    )
    root = pathlib.Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_stock_pipeline_loads_a_whole_sd3(pipeline: Any) -> None:
    assert pipeline.text_encoder_3 is None
    assert pipeline.scheduler.config.shift == 3.0
    assert pipeline.vae_scale_factor == 4
    assert pipeline.default_sample_size * pipeline.vae_scale_factor == scenes.IMAGE_PX
    widths = [e.config.projection_dim for e in (pipeline.text_encoder, pipeline.text_encoder_2)]
    assert pipeline.transformer.config.pooled_projection_dim == sum(widths)
    kinds = {p.dtype for name in ("transformer", "vae", "text_encoder", "text_encoder_2")
             for p in getattr(pipeline, name).parameters()}  # fmt: skip
    assert kinds == {torch.float32}


# ---------------------------------------------------------------- tokenizers


def test_every_scene_word_is_one_token(pipeline: Any) -> None:
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        for word in scenes.scene_words():
            assert len(tokenizer(word).input_ids) == 3, word
            assert tokenizer(word.upper()).input_ids == tokenizer(word).input_ids


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "日本語のテキスト",
        "🙂👩‍👩‍👧 café ß İ",
        "\x00\x01\u200d\ufeff",
        "x" * 1000,
        "a dog runs. " * 90,
    ],
)
def test_any_text_fills_exactly_77_tokens(pipeline: Any, prompt: str) -> None:
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        assert tokenizer.model_max_length == 77
        ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert len(ids) == 77
        assert ids[0] == tokenizer.bos_token_id
        end = ids.index(tokenizer.eos_token_id)
        assert set(ids[end + 1 :]) <= {tokenizer.pad_token_id}
        long_ids = tokenizer(prompt).input_ids
        assert ids[1:end] == long_ids[1 : min(len(long_ids) - 1, 76)]


def test_bytes_survive_the_tokenizer(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    for text in ("日本語", "café 🙂", "a large red circle"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


# ---------------------------------------------------------------- drawing


def test_any_prompt_draws(pipeline: Any) -> None:
    prompts = ["日本語 🙂 \x00", "A man in a blue shirt is standing on a ladder . " * 20]
    images_BHW3 = draw(pipeline, prompts, steps=10)
    assert images_BHW3.shape == (2, 64, 64, 3)
    for image_HW3 in images_BHW3:
        scene_classifier.classify(image_HW3)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (256, 16), (48, 80), (256, 256)])
def test_other_sizes_draw(pipeline: Any, height: int, width: int) -> None:
    images = pipeline(
        "a red circle", height=height, width=width, num_inference_steps=2, output_type="np"
    ).images
    assert images.shape == (1, height, width, 3)
    assert np.isfinite(images).all()


def test_canonical_prompts_are_drawn_as_said(
    pipeline: Any,
) -> None:
    right = 0
    images_BHW3 = draw(pipeline, list(CANONICAL_PROMPTS), steps=10)
    for prompt, image_HW3 in zip(CANONICAL_PROMPTS, images_BHW3, strict=True):
        seen = scene_classifier.classify(image_HW3)
        assert f"{seen.background} background" in prompt
        right += bool(seen.objects) and all(
            f"{item.colour} {item.shape}" in prompt and f"{item.position}" in prompt
            for item in seen.objects
        )
    assert right == len(CANONICAL_PROMPTS)


# ---------------------------------------------------------------- scenes and classifier


@pytest.mark.parametrize("objects", [1, 2])
def test_training_never_sees_held_out_scenes(objects: int) -> None:
    rng = np.random.default_rng(objects)
    trained_BA = scenes.sample_codes(rng, 20_000, objects=objects)
    kept_BA = scenes.sample_codes(rng, 500, objects=objects, want_held_out=True)
    assert not scenes.held_out(trained_BA).any()
    assert scenes.held_out(kept_BA).all()
    assert not {row.tobytes() for row in trained_BA} & {row.tobytes() for row in kept_BA}
    # Naming the objects the other way round is the same scene.
    swapped_BA = kept_BA[:, [0, 1, 6, 7, 8, 9, 2, 3, 4, 5]]
    assert objects == 1 or scenes.held_out(swapped_BA).all()


def test_about_a_tenth_is_held_out() -> None:
    rng = np.random.default_rng(3)
    free_BA = np.full((20_000, scenes.CODE_COLUMNS), -1)
    free_BA[:, 0] = 1
    for column, size in enumerate((10, 2, 10, 4, 5), start=1):
        free_BA[:, column] = rng.integers(size, size=len(free_BA))
    assert 0.08 < scenes.held_out(free_BA).mean() < 0.12


def test_codes_and_captions_say_the_scene() -> None:
    rng = np.random.default_rng(4)
    for objects in (1, 2):
        for code_A in scenes.sample_codes(rng, 50, objects=objects):
            scene = scenes.scene_of(code_A)
            assert (scenes.code_of(scene) == code_A).all()
            text = scenes.caption(scene, rng)
            assert scene.background in text
            assert all(f"{item.colour} {item.shape}" in text for item in scene.objects)
            said = set(text.replace(",", " ,").split())
            assert said <= set(scenes.scene_words())
    scene = scenes.sample_scene(rng, objects=2)
    assert len({scene.background, *(item.colour for item in scene.objects)}) == 3


@pytest.mark.parametrize("objects", [1, 2])
def test_classifier_reads_drawings(objects: int) -> None:
    rng = np.random.default_rng(10 + objects)
    codes_BA = scenes.sample_codes(rng, 80, objects=objects, want_held_out=objects == 2)
    for code_A, image_HW3 in zip(codes_BA, scenes.draw(codes_BA, rng), strict=True):
        scene = scenes.scene_of(code_A)
        seen = scene_classifier.classify(image_HW3)
        assert seen.background == scene.background
        assert facts(seen) == wanted(scene)


def test_classifier_reads_drawings_through_the_autoencoder(
    pipeline: Any,
) -> None:
    rng = np.random.default_rng(12)
    codes_BA = scenes.sample_codes(rng, 48, objects=2)
    images_BCHW = torch.from_numpy(scenes.draw(codes_BA, rng)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents_BCHW = pipeline.vae.encode(images_BCHW).latent_dist.mode()
        config = pipeline.vae.config
        scaled_BCHW = (latents_BCHW - config.shift_factor) * config.scaling_factor
        decoded_BCHW = pipeline.vae.decode(latents_BCHW).sample.clamp(-1, 1)
    assert abs(float(scaled_BCHW.mean())) < 0.1
    assert 0.9 < float(scaled_BCHW.std()) < 1.1
    pixels_BHW3 = ((decoded_BCHW + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    read = [facts(scene_classifier.classify(image_HW3)) for image_HW3 in pixels_BHW3]
    right = sum(
        seen == wanted(scenes.scene_of(code_A)) for seen, code_A in zip(read, codes_BA, strict=True)
    )
    assert right >= len(codes_BA) - 1
