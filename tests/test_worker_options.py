"""A worker's settings on their way from the node's file to the worker process, and by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_node import start_note
from edge_node.config import SETTINGS, NodeConfig
from edge_node.config_sources import InvalidConfig, load_config
from edge_node.worker.__main__ import checked, command_line, model_of, name_of
from edge_node.worker.approximations import Approximations
from edge_node.worker.queue_order import Order
from edge_node.worker.tiny_sd3 import model_folder
from edge_node.worker_options import OPTIONS, WorkerOptions

# Every setting of a worker, each as nobody has it by default.
CHANGED: dict[str, Any] = {
    "engine": "emulated",
    "model": Path('/models/sd3 medium/with "quotes".safetensors'),
    "model_name": "sd3",
    "clip_files": (Path("l.safetensors"), Path("g.safetensors")),
    "single_file_configs": Path("configs"),
    "stability_license_accepted": True,
    "dtype": "bfloat16",
    "device": "cpu",
    "context_mode": "paper",
    "long_prompts": "chunks",
    "compile_model": "never",
    "taesd3_folder": Path("taesd3"),
    "lora_folder": Path("loras"),
    "lora_strengths": {"ink": 0.8},
    "int8_weights": True,
    "guidance_interval": (0.1, 0.9),
    "step_cache": 0.05,
    "torch_threads": 2,
    "pace_s": 0.5,
    "emulated_profile": "orin-64gb-30w",
    "emulated_mode_file": Path("mode"),
    "time_scale": 20.0,
    "deterministic": True,
    "rows_max": 3,
    "queue_order": "srpt",
    "queue_ageing": 0.5,
    "queue_promotion": (15.0, 1.0),
    "queue_promotion_load": 0.9,
    "memory_floor_bytes": 2**20,
    "image_metadata": False,
    "image_task_ids": False,
    "hosted_tasks_max": 7,
    "worker_lock": Path("/run/lock of ours"),
    "log_format": "json",
}


def arrived(config: NodeConfig) -> WorkerOptions:
    return checked(command_line(WorkerOptions.of(config).command(Path("s"))[3:])).options


def test_every_setting_arrives_as_it_was_set() -> None:
    assert CHANGED.keys() == set(OPTIONS)
    for name, value in CHANGED.items():
        assert value != SETTINGS[name].default, name
    options = arrived(NodeConfig(**CHANGED))
    assert {name: getattr(options, name) for name in OPTIONS} == CHANGED


def test_what_nobody_set_is_as_by_default_and_is_not_said(tmp_path: Path) -> None:
    config = NodeConfig(data_folder=tmp_path)
    lock = tmp_path / "run" / "accelerator.lock"
    assert json.loads(WorkerOptions.of(config).to_json()) == {"worker_lock": str(lock)}
    options = arrived(config)
    assert options.worker_lock == lock
    for name in set(OPTIONS) - {"worker_lock"}:
        assert getattr(options, name) == SETTINGS[name].default, name
    assert WorkerOptions.from_json("{}").worker_lock is None  # by hand there need not be one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        (
            '{"model_nam": "x"}',
            r"model_nam \(options\) is not .*. Did you mean model_name\?",
        ),
        ('{"rest_port": 1}', r"rest_port \(options\) is not for a worker"),
        ('{"engine": "sd4"}', r"engine \(options\) is 'sd4'"),
        ('{"time_scale": 0}', "time_scale"),
        ('{"pace_s": -1}', "pace_s"),
        ('{"queue_order": "fcfs", "queue_ageing": 1}', "leave queue_ageing"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        WorkerOptions.from_json(text)


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(InvalidConfig) as caught:
        WorkerOptions.from_json('{"enginee": "sd3", "time_scale": 0, "rows_max": -1}')
    assert len(caught.value.problems) == 3


def test_the_environment_of_a_node_does_not_reach_its_worker_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEDGEAI_QUEUE_ORDER", "srpt")
    monkeypatch.setenv("DEDGEAI_QUEUE_PROMOTION", "15,1")
    config = load_config(None, {"queue_ageing": 0.5, "queue_promotion_load": 0.9})
    monkeypatch.setenv("DEDGEAI_QUEUE_ORDER", "fcfs")
    parsed = checked(command_line(WorkerOptions.of(config).command(Path("s"))[3:]))
    assert parsed.order == Order(
        discipline="srpt", ageing=0.5, promotion=(15.0, 1.0), promotion_load=0.9
    )


def test_lossy_choices_are_checked_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = '{"taesd3_folder": "t", "int8_weights": true, "guidance_interval": [0.1, 0.9]}'
    assert checked(command_line(["--socket", "s", "--options", options])).approximations == (
        Approximations(taesd3=Path("t"), int8_weights=True, guidance_interval=(0.1, 0.9))
    )
    with pytest.raises(SystemExit) as ended:
        checked(command_line(["--socket", "s", "--options", '{"guidance_interval": [0.9, 0.1]}']))
    assert ended.value.code == 2
    assert "guidance_interval is 0.9,0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "model"),
    [
        ({}, (model_folder(), "tiny-sd3")),
        ({"model_name": "sd3"}, (model_folder(), "sd3")),
        ({"model": "models/sd3"}, (Path("models/sd3"), "sd3")),
        ({"model": "models/sd3", "model_name": "x"}, (Path("models/sd3"), "x")),
    ],
)
def test_a_model_is_served_under_the_name_it_is_given(
    values: dict[str, str], model: tuple[Path, str]
) -> None:
    options = arrived(load_config(None, values))
    assert (model_of(options), name_of(options)) == model


def test_a_person_is_told_every_option_and_what_is_wrong(tmp_path: Path) -> None:
    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_node.worker", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    helped = told("--help").stdout
    for name in OPTIONS:
        assert f"  {name} (" in helped
    refused = told("--socket", str(tmp_path / "s"), "--options", '{"emulated_profil": "x"}')
    note = start_note.read(tmp_path / "s")
    assert note is not None
    assert (note.permanent, "Did you mean emulated_profile?" in note.sentence) == (True, True)
    assert refused.returncode == 2
    assert "Did you mean emulated_profile?" in refused.stderr
    assert "Traceback" not in refused.stderr
