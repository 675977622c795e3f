"""How much memory does Stable Diffusion 3 Medium take, with its T5 encoder and without?

Writes the model at full size with random fp16 weights, as a diffusers folder and as a single file
in the layout of `sd3_medium_incl_clips_t5xxlfp16.safetensors`, and loads it in one process after
the other: by diffusers with T5, by diffusers without, and by this worker from folder and file. Of
each it tells the weights' bytes, the peak of resident memory above what was resident before
loading (VmHWM, reset through /proc/self/clear_refs), and the whole process. diffusers maps its
files, so on a CPU its weights are not in memory before they are used: every page of the weights is
therefore read once before the peak is, and what was resident before that stands beside it. Further
beside stand the 40 and 16 GB that the paper reports for SD3-medium and reSD3-m.

    nice python -m benchmarks.memory_resd3m --scratch /tmp/sd3

Needs 22 GB of disk and, for T5, 20 GB of memory: what does not fit is left out and said so.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import machine
from benchmarks import sd3_checkpoint_layout as layout

RESULTS = pathlib.Path(__file__).parent / "results"
PEAK_RATIO_MAX = 1.25
DISK_BYTES = 22e9
# Above the weights, so that a run does not push its neighbours out of memory.
MEMORY_SPARE_BYTES = 2.0e9
# transformers keeps the `wo` of T5's 24 layers in float32, whatever dtype is asked for.
T5_FLOAT32_BYTES = 2 * 24 * 10240 * 4096
# Memory of the paper's whole process: docs/paper.md.
PAPER_GB = {"with T5": 40.0, "without T5": 16.0}
# docs/facts.md.
PARAMETERS = {
    "transformer": 2_028_328_000,
    "vae": 83_819_683,
    "text_encoder": 123_650_304,
    "text_encoder_2": 694_659_840,
    "text_encoder_3": 4_762_310_656,
}
T5_CONFIG = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128,
}
FOLDER = "folder"
FILE = "sd3_medium_incl_clips_t5xxlfp16.safetensors"
Parts = Mapping[str, Any]


# Writing the model.


def write_folder(folder: pathlib.Path) -> None:
    """The diffusers folder, T5 included, in one file per part."""
    from edge_node.worker import clip_vocabulary, sd3_configs

    shutil.copytree(sd3_configs.config_folder(), folder)
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text())
    index["text_encoder_3"] = ["transformers", "T5EncoderModel"]
    index_path.write_text(json.dumps(index))
    for tokenizer in ("tokenizer", "tokenizer_2"):
        clip_vocabulary.write(clip_vocabulary.shipped(), folder / tokenizer)
    (folder / "text_encoder_3").mkdir()
    (folder / "text_encoder_3" / "config.json").write_text(json.dumps(T5_CONFIG))
    for part, shapes in _folder_shapes(folder).items():
        stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        layout.write(folder / part / f"{stem}.safetensors", shapes, dtype="F16")


def _folder_shapes(folder: pathlib.Path) -> dict[str, layout.Shapes]:
    """Names and shapes as the modules have them, which is what their folders hold."""
    import diffusers
    import torch
    import transformers

    def config(part: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((folder / part / "config.json").read_text())
        return content

    with torch.device("meta"):
        modules = {
            "transformer": diffusers.SD3Transformer2DModel.from_config(config("transformer")),
            "vae": diffusers.AutoencoderKL.from_config(config("vae")),
        }
        for part in ("text_encoder", "text_encoder_2"):
            modules[part] = transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig.from_dict(config(part))
            )
    shapes = {
        part: {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        for part, module in modules.items()
    }
    t5 = layout.t5_xxl()
    # Folders hold the embedding once.
    del t5["encoder.embed_tokens.weight"]
    return {**shapes, "text_encoder_3": t5}


def write_file(path: pathlib.Path) -> None:
    """The single file; its T5 is told of by the header and takes no disk, since nobody reads it."""
    shapes = layout.single_file(layout.Sd3Size(), clips=True, t5=True)
    layout.write(path, shapes, dtype="F16", hole={layout.T5: "F16"})


# Loading it, each way in a process of its own.


def diffusers_with_t5(scratch: pathlib.Path) -> Parts:
    """StableDiffusion3Pipeline as its documentation loads it."""
    return _pipeline(scratch / FOLDER)


def diffusers_without_t5(scratch: pathlib.Path) -> Parts:
    """The same with `text_encoder_3=None`."""
    return _pipeline(scratch / FOLDER, text_encoder_3=None)


def _pipeline(folder: pathlib.Path, **options: Any) -> Parts:
    import diffusers
    import torch

    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder, dtype=torch.float16, tokenizer_3=None, local_files_only=True, **options
    )
    return {part: getattr(pipe, part) for part in PARAMETERS if getattr(pipe, part) is not None}


def ours_folder(scratch: pathlib.Path) -> Parts:
    """This worker's loader on the same folder."""
    return _ours(scratch / FOLDER)


def ours_file(scratch: pathlib.Path) -> Parts:
    """This worker's loader on the single file."""
    return _ours(scratch / FILE)


def _ours(path: pathlib.Path) -> Parts:
    import torch

    from edge_node.worker.model_files import find
    from edge_node.worker.sd3_parts import load_parts

    parts = load_parts(find(path), device=torch.device("cpu"), dtype=torch.float16)
    (_, clip_l), (_, clip_g) = parts.clips
    return {
        "transformer": parts.transformer,
        "vae": parts.vae,
        "text_encoder": clip_l,
        "text_encoder_2": clip_g,
    }


WAYS: dict[str, Callable[[pathlib.Path], Parts]] = {
    "diffusers, with T5": diffusers_with_t5,
    "diffusers, without T5": diffusers_without_t5,
    "ours, folder, without T5": ours_folder,
    "ours, single file, without T5": ours_file,
}


def measure(way: str, scratch: pathlib.Path) -> dict[str, Any]:
    """Loads in this process and reads its memory from /proc."""
    # Libraries are no part of the model: all that loading imports is there before it starts.
    import diffusers
    import torch
    import transformers

    from edge_node.worker import sd3_parts

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    late = (diffusers.StableDiffusion3Pipeline, transformers.T5EncoderModel, sd3_parts.load_parts)
    assert all(late)
    gc.collect()
    before_bytes = memory_bytes("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    start_s = time.perf_counter()
    parts = WAYS[way](scratch)
    load_s = time.perf_counter() - start_s
    loaded_bytes = memory_bytes("VmHWM")
    for module in parts.values():
        read_every_page(module)
    peak_bytes = memory_bytes("VmHWM")
    told = {part: _part_facts(part, module) for part, module in parts.items()}
    return {
        "parts": told,
        "weight_bytes": sum(facts["bytes"] for facts in told.values()),
        "before_bytes": before_bytes,
        "peak_above_before_bytes": peak_bytes - before_bytes,
        "peak_above_before_unread_bytes": loaded_bytes - before_bytes,
        "process_peak_bytes": peak_bytes,
        "process_after_bytes": memory_bytes("VmRSS"),
        "of_which_mapped_file_bytes": memory_bytes("RssFile"),
        "load_s": load_s,
    }


def read_every_page(module: Any) -> None:
    """What using the model does to its weights: brings into memory what is still on the disk."""
    import torch

    for tensor in module.state_dict().values():
        # A byte of each page is enough, and its sum takes no memory.
        tensor.view(-1).view(torch.uint8)[::4096].sum()


def memory_bytes(name: str) -> int:
    """One line of this process's /proc status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _part_facts(part: str, module: Any) -> dict[str, int]:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if parameters != PARAMETERS[part]:
        raise RuntimeError(f"{part} has {parameters} parameters, not {PARAMETERS[part]}")
    # Tied tensors are one.
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    return {"parameters": parameters, "bytes": sum(tensors.values())}


# All of it.


def needed_bytes(way: str) -> float:
    """Memory that must be free for a run: the weights in fp16, and a little."""
    t5_bytes = 2 * PARAMETERS["text_encoder_3"] + T5_FLOAT32_BYTES
    others_bytes = 2 * sum(PARAMETERS.values()) - 2 * PARAMETERS["text_encoder_3"]
    return others_bytes + (t5_bytes if way.endswith("with T5") else 0) + MEMORY_SPARE_BYTES


def available_bytes() -> int:
    """MemAvailable."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def measure_all(scratch: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Every way that fits into memory now; those that do not say so."""
    results: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        if available_bytes() < needed_bytes(way):
            results[way] = {
                "left_out": f"{available_bytes() / 1e9:.1f} GB of memory were available, "
                f"{needed_bytes(way) / 1e9:.1f} are needed"
            }
            continue
        command = [sys.executable, "-m", "benchmarks.memory_resd3m", "--measure", way]
        done = subprocess.run(
            [*command, "--scratch", str(scratch)], stdout=subprocess.PIPE, text=True, check=True
        )
        results[way] = json.loads(done.stdout.splitlines()[-1])
        ratio = results[way]["peak_above_before_bytes"] / results[way]["weight_bytes"]
        results[way]["peak_to_weights"] = ratio
    return results


def print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per way, the paper's figures last."""
    print(
        f"{'fp16':<32}{'weights':>10}{'peak':>10}{'ratio':>8}{'process':>10}{'unread':>10}{'load':>9}"
    )
    for way, result in results.items():
        if "left_out" in result:
            print(f"{way:<32} left out: {result['left_out']}")
            continue
        weights, peak, process, unread = (
            f"{result[column] / 1e9:.2f} GB"
            for column in (
                "weight_bytes",
                "peak_above_before_bytes",
                "process_peak_bytes",
                "peak_above_before_unread_bytes",
            )
        )
        print(
            f"{way:<32}{weights:>10}{peak:>10}{result['peak_to_weights']:>7.2f}x{process:>10}"
            f"{unread:>10}{result['load_s']:>7.1f} s"
        )
    for name, gigabytes in PAPER_GB.items():
        print(f"{f'the paper, {name}':<32}{'':>28}{gigabytes:>7.0f} GB")


def main() -> None:
    """Writes the model, measures, prints, writes the result, deletes the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=pathlib.Path, help="folder with 22 GB free")
    parser.add_argument("--measure", choices=tuple(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.scratch)))
        return
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="resd3m-", dir=options.scratch) as name:
        scratch = pathlib.Path(name)
        if shutil.disk_usage(scratch).free < DISK_BYTES:
            parser.error(f"{scratch} has less than {DISK_BYTES / 1e9:.0f} GB free: give --scratch")
        write_folder(scratch / FOLDER)
        write_file(scratch / FILE)
        results = measure_all(scratch)
    print_table(results)
    ours = [result for way, result in results.items() if way.startswith("ours")]
    reached = all(result.get("peak_to_weights", 9.9) <= PEAK_RATIO_MAX for result in ours)
    written = {
        "question": "memory of SD3-medium while it is loaded in fp16, with T5 and without",
        "weights": "random, at full size, in real files",
        "goal": {"peak_to_weights_max": PEAK_RATIO_MAX},
        "reached": reached,
        "paper_process_gb": PAPER_GB,
        "results": results,
        "machine": machine.describe(),
    }
    (RESULTS / "memory_resd3m.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
