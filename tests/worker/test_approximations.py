"""Lossy choices: what is refused, and that a choice is what it says and is told."""

from __future__ import annotations

import pathlib
import sys

import pytest
import torch

from edge_node.domain import ModelFingerprint
from edge_node.worker.approximations import Approximations, served_fingerprint
from edge_node.worker.denoiser import ModelUnusable
from tests.worker.oracle import alone, denoiser, drawing


def test_bounds_are_said() -> None:
    for bounds in ((0.5, 0.5), (-0.1, 0.5), (0.2, 1.5)):
        with pytest.raises(ValueError, match="0 <= low < high <= 1"):
            Approximations(guidance_interval=bounds)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Approximations(step_cache=share)


def test_what_is_in_use_is_named() -> None:
    assert Approximations().names == ()
    chosen = Approximations(
        taesd3=pathlib.Path("t"), int8_weights=True, guidance_interval=(0.1, 0.9), step_cache=0.05
    )
    assert chosen.names == (
        "taesd3",
        "int8_weights",
        "guidance_interval=0.1..0.9",
        "step_cache=0.05",
    )


def test_guidance_is_within_its_interval_only() -> None:
    bounded = Approximations(guidance_interval=(0.2, 0.8))
    assert [bounded.guides(sigma) for sigma in (0.2, 0.5, 0.8, 0.9)] == [False, True, True, False]
    assert Approximations().guides(1.0)


def test_the_fingerprint_tells_choices_apart() -> None:
    weights = ModelFingerprint("w")
    told = {
        served_fingerprint(weights, context_mode=mode, approximations=chosen)
        for mode in ("sd3", "paper")
        for chosen in (Approximations(), Approximations(step_cache=0.1))
    }
    assert len(told) == 4


@pytest.mark.model
def test_taesd3_decodes_in_the_vaes_place(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(2)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=16,
    ).save_pretrained(tmp_path)
    worker = denoiser(random_sd3_folder, "float32", approximations=Approximations(taesd3=tmp_path))
    one = drawing(steps=2)
    row = alone(worker, one)
    tiny = AutoencoderTiny.from_pretrained(tmp_path)
    with torch.inference_mode():
        expected_3HW = tiny.decode(row.latent_CHW[None], return_dict=False)[0][0]
    expected = ((expected_3HW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    picture = worker.picture(row)
    assert picture.size == (32, 32)
    assert picture.tobytes() == expected.permute(1, 2, 0).contiguous().numpy().tobytes()


@pytest.mark.model
def test_a_missing_decoder_or_library_says_what_to_do(
    random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnusable, match="point --taesd3 at"):
        denoiser(random_sd3_folder, "float32", approximations=Approximations(taesd3=tmp_path))
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelUnusable, match="pip install torchao"):
        denoiser(random_sd3_folder, "float32", approximations=Approximations(int8_weights=True))
