"""Files that look whole and are not, or are something else: a sentence each, before they draw."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.model_files import find
from edge_node.worker.safetensors_file import read_header, zeros_at_the_end
from edge_node.worker.sd3_parts import check_headers, load_parts
from tests.worker import small_sd3

pytestmark = pytest.mark.model


@pytest.fixture
def folder(random_sd3_folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(random_sd3_folder, tmp_path / "model")
    return tmp_path / "model"


def vae(folder: pathlib.Path) -> pathlib.Path:
    return folder / "vae" / "diffusion_pytorch_model.safetensors"


def changed(
    name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[pathlib.Path], None]:
    def change_it(folder: pathlib.Path) -> None:
        tensors = load_file(vae(folder))
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, vae(folder))

    return change_it


def zero_tail(folder: pathlib.Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 8192)
        file.write(bytes(8192))


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[3] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (changed("decoder.conv_in.weight", torch.zeros_like), "holds zeros alone"),
        (changed("decoder.conv_in.bias", with_nan), "numbers that are not finite"),
        (zero_tail, "ends in zeros, as the file does"),
    ],
    ids=["zeros", "nan", "tail"],
)
def test_weights_that_no_training_leaves_are_refused(
    folder: pathlib.Path, damage: Callable[[pathlib.Path], None], sentence: str
) -> None:
    damage(folder)
    with pytest.raises(ModelUnusable, match=sentence):
        load_parts(find(folder), device=torch.device("cpu"), dtype=torch.float32)


def test_a_bias_may_be_zero(folder: pathlib.Path) -> None:
    changed("decoder.conv_in.bias", torch.zeros_like)(folder)
    parts = load_parts(find(folder), device=torch.device("cpu"), dtype=torch.float32)
    assert not parts.vae.decoder.conv_in.bias.any()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (changed("decoder.conv_in.weight", lambda t: t[:, :2]), "is of shape"),
        (changed("decoder.conv_in.weight", lambda t: t.to(torch.float8_e4m3fn)), "F8_E4M3"),
        (zero_tail, "ends in zeros, as the file does"),
    ],
    ids=["shape", "fp8", "tail"],
)
def test_headers_alone_tell_what_the_loader_would_refuse(
    folder: pathlib.Path, damage: Callable[[pathlib.Path], None], sentence: str
) -> None:
    check_headers(find(folder))
    damage(folder)
    with pytest.raises(ModelUnusable, match=sentence):
        check_headers(find(folder))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"GGUF" + bytes(64), "is a GGUF file"),
        (b"PK\x03\x04" + bytes(64), "is a checkpoint of pickles"),
        (b"<!DOCTYPE html><html>" + bytes(64), "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
    ids=["gguf", "ckpt", "html", "lfs"],
)
def test_what_is_taken_for_weights_is_named(
    tmp_path: pathlib.Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelUnusable, match=sentence):
        find(path)


@pytest.mark.parametrize(("lost_bytes", "whole"), [(4000, True), (40_000, False)])
def test_zeros_at_the_end_count_where_they_reach_into_a_matrix(
    tmp_path: pathlib.Path, lost_bytes: int, whole: bool
) -> None:
    """The last tensor of this file is a bias, and biases may be zeros."""
    path = tmp_path / "x.safetensors"
    save_file({"a.weight": torch.ones(100, 100), "b.bias": torch.ones(1000)}, path)
    with path.open("r+b") as file:
        file.seek(-lost_bytes, 2)
        file.write(bytes(lost_bytes))
    stored = read_header(path)
    assert stored["b.bias"].ranges[0][1] == path.stat().st_size
    found = zeros_at_the_end(path, stored.values())
    assert found == (None if whole else stored["a.weight"])


def test_a_path_that_is_not_there_is_what_is_said(tmp_path: pathlib.Path) -> None:
    clips = (tmp_path / "l.safetensors", tmp_path / "g.safetensors")
    with pytest.raises(ModelUnusable, match="does not exist"):
        find(tmp_path / "absent.safetensors", clips)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer/vocab.json", "{}", "it has no tokens"),
        ("tokenizer/merges.txt", None, "the vocabulary in .* cannot be read"),
        ("scheduler/scheduler_config.json", '{"shift": "3"}', "the scheduler of .* cannot be"),
        (
            "vae/diffusion_pytorch_model.safetensors.index.json",
            '{"weight_map": null}',
            "names no files",
        ),
    ],
)
def test_small_files_that_are_damaged_are_named(
    folder: pathlib.Path, name: str, content: str | None, sentence: str
) -> None:
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    if "index" in name:
        vae(folder).unlink()
    with pytest.raises(ModelUnusable, match=sentence):
        load_parts(find(folder), device=torch.device("cpu"), dtype=torch.float32)


def test_a_file_in_a_hubs_cache_goes_by_its_own_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "blobs").mkdir()
    blob = small_sd3.write_single_file(tmp_path / "blobs" / "0f3a")
    link = tmp_path / "snapshots" / "sd3_medium_incl_clips.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)
    configs = small_sd3.write_config_folder(tmp_path / "configs")
    assert find(link, config_folder=configs).name == "sd3_medium_incl_clips"


def test_sd35_is_named_and_drawn_where_its_configs_are_given(tmp_path: pathlib.Path) -> None:
    path = small_sd3.write_single_file(tmp_path / "sd35.safetensors", size=small_sd3.SIZE_35)
    of_sd3 = small_sd3.write_config_folder(tmp_path / "sd3")
    with pytest.raises(ModelUnusable, match=r"is a Stable Diffusion 3\.5.*single_file_configs"):
        find(path, config_folder=of_sd3)
    own = small_sd3.write_config_folder(tmp_path / "sd35", small_sd3.SIZE_35)
    check_headers(find(path, config_folder=own))
