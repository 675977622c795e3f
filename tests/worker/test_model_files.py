"""Which files make a model: every layout found, every other thing refused with what to do."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from benchmarks import sd3_checkpoint_layout as layout
from edge_node.worker import clip_vocabulary, model_files, safetensors_file, tiny_sd3
from edge_node.worker.denoiser import ModelUnusable
from edge_node.worker.model_files import find
from edge_node.worker.safetensors_file import StoredTensor, TensorReader, chunks, read_header
from tests.worker import small_sd3

TINY = tiny_sd3.model_folder()


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return small_sd3.write_config_folder(tmp_path_factory.mktemp("configs"))


@pytest.fixture
def tiny_copy(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(TINY, tmp_path / "tiny"))


def paths(files: model_files.ModelFiles, part: str) -> set[pathlib.Path]:
    sources = files.parts[part].sources.values()
    return {source.path for source in sources if isinstance(source, StoredTensor)}


# What is found.


def test_a_folder_is_found_without_torch() -> None:
    code = (
        "import pathlib, sys; from edge_node.worker.model_files import find; "
        "print(len(find(pathlib.Path(sys.argv[1])).parts), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(TINY)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["4", "False"]


def test_a_folder_gives_its_own_configs_weights_and_tokenizers() -> None:
    files = find(TINY)
    assert files.name == "model"
    assert files.scheduler_config["shift"] == 3.0
    assert files.parts["transformer"].config["num_layers"] == 6
    assert paths(files, "vae") == {TINY / "vae" / "diffusion_pytorch_model.safetensors"}
    assert [t.folder.name for t in files.tokenizers] == ["tokenizer", "tokenizer_2"]
    assert [t.pad_token for t in files.tokenizers] == ["<|endoftext|>", "!"]
    assert not files.needs_licence


def test_plain_weights_come_before_a_variant_and_a_variant_before_none(
    tiny_copy: pathlib.Path,
) -> None:
    plain = tiny_copy / "vae" / "diffusion_pytorch_model.safetensors"
    variant = shutil.copy(plain, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert paths(find(tiny_copy), "vae") == {plain}
    plain.unlink()
    assert paths(find(tiny_copy), "vae") == {variant}


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_found_by_their_index(tiny_copy: pathlib.Path, variant: str) -> None:
    folder = tiny_copy / "text_encoder"
    header = read_header(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number, keys in enumerate((list(header)[::2], list(header)[1::2]), start=1):
        name = f"model{variant}-0000{number}-of-00002.safetensors"
        layout.write(folder / name, {key: header[key].shape for key in keys}, dtype="F32")
        weight_map |= dict.fromkeys(keys, name)
    index_path = folder / f"model.safetensors.index{variant}.json"
    index_path.write_text(json.dumps({"weight_map": weight_map}))
    files = find(tiny_copy)
    assert len(paths(files, "text_encoder")) == 2
    assert files.parts["text_encoder"].sources.keys() == header.keys()
    (folder / name).unlink()
    with pytest.raises(ModelUnusable, match=r"index.*names model.*-00002-of-00002.*is not there"):
        find(tiny_copy)


def test_a_single_file_with_clips_needs_nothing_beside_it(
    tmp_path: pathlib.Path, config_folder: pathlib.Path
) -> None:
    path = small_sd3.write_single_file(
        tmp_path / "sd3_medium_incl_clips_t5xxlfp8.safetensors", t5=True
    )
    files = find(path, config_folder=config_folder)
    assert files.name == "sd3_medium_incl_clips_t5xxlfp8"
    assert all(paths(files, part) == {path} for part in model_files.WEIGHED_PARTS)
    assert not any("t5xxl" in name for part in files.parts.values() for name in part.sources)
    assert files.parts["transformer"].config["num_layers"] == 3


@pytest.mark.parametrize("subfolder", [".", "text_encoders"])
def test_clips_are_looked_for_beside_the_checkpoint(
    tmp_path: pathlib.Path, config_folder: pathlib.Path, subfolder: str
) -> None:
    path = small_sd3.write_apart(tmp_path, subfolder=subfolder)
    files = find(path, config_folder=config_folder)
    assert paths(files, "text_encoder") == {tmp_path / subfolder / "clip_l.safetensors"}
    assert paths(files, "text_encoder_2") == {tmp_path / subfolder / "clip_g.safetensors"}


def test_given_clips_come_before_all_others(
    tmp_path: pathlib.Path, config_folder: pathlib.Path
) -> None:
    elsewhere = small_sd3.write_apart(tmp_path / "elsewhere").parent / "text_encoders"
    given = tuple(elsewhere / name for name in model_files.CLIP_FILES)
    path = small_sd3.write_single_file(tmp_path / "all.safetensors")
    files = find(path, given, config_folder=config_folder)
    assert paths(files, "text_encoder") | paths(files, "text_encoder_2") == set(given)


def test_without_a_config_folder_a_single_file_is_sd3_medium(tmp_path: pathlib.Path) -> None:
    path = small_sd3.write_single_file(tmp_path / "small.safetensors")
    files = find(path)
    assert files.parts["transformer"].config["num_layers"] == 24
    assert files.parts["vae"].config["shift_factor"] == 0.0609
    assert files.scheduler_config["shift"] == 3.0
    assert [t.pad_token for t in files.tokenizers] == ["<|endoftext|>", "!"]
    assert files.needs_licence


# What is refused.


def test_a_wrong_place_says_where_to_point(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelUnusable, match="does not exist: point --model at"):
        find(tmp_path / "nothing")
    with pytest.raises(ModelUnusable, match=r"has no model_index\.json"):
        find(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelUnusable, match="holds a FluxPipeline"):
        find(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(ModelUnusable, match="lacks scheduler"):
        find(tmp_path)
    with pytest.raises(ModelUnusable, match="brings its own CLIPs and configs"):
        find(TINY, config_folder=TINY)


def test_what_a_folder_lacks_is_named(tiny_copy: pathlib.Path) -> None:
    (tiny_copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"no weights .* in .*vae: copy the model again"):
        find(tiny_copy)
    shutil.copytree(TINY / "vae", tiny_copy / "vae", dirs_exist_ok=True)
    config_path = tiny_copy / "text_encoder_2" / "config.json"
    config_path.write_text("{")
    with pytest.raises(ModelUnusable, match=r"text_encoder_2.*is damaged"):
        find(tiny_copy)
    config_path.write_text('{"architectures": ["T5EncoderModel"]}')
    with pytest.raises(ModelUnusable, match="describes a T5EncoderModel"):
        find(tiny_copy)
    config_path.unlink()
    with pytest.raises(ModelUnusable, match=r"there is no .*text_encoder_2"):
        find(tiny_copy)
    (tiny_copy / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ModelUnusable, match="no vocabulary"):
        find(tiny_copy)


def test_a_truncated_copy_is_named(tiny_copy: pathlib.Path) -> None:
    weights_path = next((tiny_copy / "transformer").glob("*.safetensors"))
    content = weights_path.read_bytes()
    for damaged in (content[:-100], content[:5], b"\x10", b""):
        weights_path.write_bytes(damaged)
        with pytest.raises(ModelUnusable, match=r"transformer.*copy it again"):
            find(tiny_copy)
    weights_path.write_bytes(content + b"0")
    with pytest.raises(ModelUnusable, match="damaged or incomplete, copy it again"):
        find(tiny_copy)


def test_files_that_are_no_safetensors_are_told(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelUnusable, match="git lfs pull"):
        find(path)
    path.write_bytes((2).to_bytes(8, "little") + b"PK")
    with pytest.raises(ModelUnusable, match="no safetensors file"):
        find(path)
    header = b'{"a":{"dtype":"F16","shape":[3]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelUnusable, match="no safetensors file"):
        find(path)
    header = b'{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelUnusable, match=r"4 bytes for a where .* F16 \(3,\)"):
        find(path)


def test_missing_clips_are_named_with_where_they_were_looked_for(tmp_path: pathlib.Path) -> None:
    path = small_sd3.write_apart(tmp_path)
    clip_g = tmp_path / "text_encoders" / "clip_g.safetensors"
    clip_g.rename(tmp_path / "moved.safetensors")
    with pytest.raises(ModelUnusable) as told:
        find(path)
    assert "clip_g.safetensors was found neither in" in str(told.value)
    assert str(tmp_path / "text_encoders") in str(told.value)
    (tmp_path / "text_encoders" / "clip_l.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"clip_l\.safetensors and clip_g\.safetensors was"):
        find(path)
    with pytest.raises(ModelUnusable, match="give two, CLIP-L's and then CLIP-bigG's"):
        find(path, (tmp_path / "moved.safetensors",))
    with pytest.raises(ModelUnusable, match=r"no CLIP file .*text_encoders/clip_g"):
        find(path, (tmp_path / "moved.safetensors", clip_g))


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a Flux model"),
        ("conditioner.embedders.0.transformer.text_model.x", "a Stable Diffusion XL checkpoint"),
        ("cond_stage_model.transformer.text_model.x", "a Stable Diffusion 1 or 2 checkpoint"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder alone"),
    ],
)
def test_another_architecture_is_called_by_its_name(
    tmp_path: pathlib.Path, key: str, meaning: str
) -> None:
    path = tmp_path / "model.safetensors"
    layout.write(path, {key: (2, 2)}, dtype="F16")
    with pytest.raises(ModelUnusable, match=f"looks like {meaning}.*point --model at"):
        find(path)


def test_incomplete_or_strange_single_files_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.safetensors"
    shapes = layout.single_file(small_sd3.SIZE, clips=True, t5=False)
    without_vae = {k: shape for k, shape in shapes.items() if not k.startswith(layout.VAE)}
    layout.write(path, without_vae, dtype="F16")
    with pytest.raises(ModelUnusable, match="holds no VAE"):
        find(path)
    small_sd3.write_single_file(path, extra={"control_model.weight": (2,)})
    with pytest.raises(ModelUnusable, match=r"1 tensors that are no part.*control_model\.weight"):
        find(path)
    apart = small_sd3.write_apart(tmp_path / "apart")
    layout.write(apart.parent / "clip_l.safetensors", {"shared.weight": (2,)}, dtype="F16")
    with pytest.raises(ModelUnusable, match=r"looks like a T5 .*not like the CLIP.*text_encoder:"):
        find(apart)


def test_the_licence_must_be_accepted_for_weights_that_are_under_it(
    tmp_path: pathlib.Path, config_folder: pathlib.Path
) -> None:
    path = small_sd3.write_single_file(tmp_path / "small.safetensors")
    model_files.check_licence(find(path, config_folder=config_folder), accepted=False)
    (tmp_path / "LICENSE.md").write_text("# STABILITY AI COMMUNITY LICENSE AGREEMENT\n")
    for licensed in (find(path, config_folder=config_folder), find(path)):
        model_files.check_licence(licensed, accepted=True)
        with pytest.raises(ModelUnusable, match="stability_license_accepted = true"):
            model_files.check_licence(licensed, accepted=False)
    (tmp_path / "LICENSE.md").write_text("Apache License 2.0")
    assert not find(path, config_folder=config_folder).needs_licence


# The bytes.


def test_a_tensor_is_read_in_bounded_pieces_in_its_own_order(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.safetensors"
    layout.write(path, {"a": (3,), "b": (4, 5)}, dtype="F16")
    rows = read_header(path)["b"].rows((2, 4), (0, 1))
    assert rows.shape == (3, 5)
    assert rows.size_bytes == 30
    read = bytearray()
    with TensorReader() as reader:
        for start, count in chunks(rows, chunk_bytes=8):
            assert count <= 8
            piece = bytearray(count)
            reader.read_into(memoryview(piece), path, start=start)
            read += piece
        tensor = path.read_bytes()[-40:]
        assert read == tensor[20:] + tensor[:10]
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(ModelUnusable, match="became shorter"):
            reader.read_into(memoryview(bytearray(40)), path, start=rows.ranges[1][0])


def test_dtypes_of_unknown_size_pass_the_header(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]},"__metadata__":{"format":"pt"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    assert safetensors_file.read_header(path)["a"].size_bytes == 2


# Vocabularies.


def test_the_shipped_vocabulary_is_clips() -> None:
    vocabulary = clip_vocabulary.shipped()
    assert len(vocabulary.token_ids) == 49408
    assert len(vocabulary.merges) == 48894
    known = {"!": 0, "a</w>": 320, "cat</w>": 2368, "photo</w>": 1125, "<|endoftext|>": 49407}
    assert {token: vocabulary.token_ids[token] for token in known} == known


def test_both_forms_of_a_tokenizer_folder_are_the_same_vocabulary(tmp_path: pathlib.Path) -> None:
    vocabulary = clip_vocabulary.read(TINY / "tokenizer_2")
    clip_vocabulary.write(vocabulary, tmp_path)
    again = clip_vocabulary.read(tmp_path)
    digests = {v.digest(pad_token="!", length_max=77) for v in (vocabulary, again)}
    assert len(digests) == 1
    assert digests != {vocabulary.digest(pad_token="<|endoftext|>", length_max=77)}


def test_a_pad_token_may_be_written_with_its_properties(tiny_copy: pathlib.Path) -> None:
    folder = tiny_copy / "tokenizer_2"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    assert find(tiny_copy).tokenizers[1].pad_token == "!"
