"""`dedgeai config`: what it prints can be read back, and what it finds wrong is a sentence."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edge_node.cli import main
from edge_node.config import SETTINGS
from edge_node.config_sources import load, load_config
from edge_node.console.configuration import as_json, as_toml, problems

CHOSEN = {
    "node_id": "orin-1",
    "peers": ("orin-2:9080", "orin-3:9080"),
    "model": 'folder "quoted" \\ \x7f 狐',
    "policy_options": {"checkpoint": "a b", "weight": 0.5},
    "queue_order": "srpt",
    "queue_promotion": (15.0, 1.0),
    "queue_promotion_load": 0.9,
    "queue_wait_s_max": float("inf"),
    "image_metadata": False,
    "decision_budget_s": 1e-5,
}


def test_what_is_shown_can_be_saved_and_read_back(tmp_path: Path) -> None:
    loaded = load(None, CHOSEN)
    path = tmp_path / "node.toml"
    path.write_text(as_toml(loaded))
    again = load(path, {})
    assert again.config == loaded.config
    unset = {key for key, value in loaded.config if value is None}
    assert set(tomllib.loads(path.read_text())) == set(SETTINGS) - unset
    assert {again.sources[key] for key in CHOSEN} == {"file"}


def test_each_line_says_unit_source_default_and_whether_it_is_reloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEDGEAI_TASK_KEEP_S", "60")
    lines = as_toml(load(None, {"rest_port": "1"})).splitlines()
    assert "task_keep_s = 60.0  # s; environment, default 604800.0; SIGHUP reloads it" in lines
    assert "rest_port = 1  # command line, default 8080; needs a restart" in lines
    assert "# model is not set  # default; needs a restart" in lines
    shown = json.loads(as_json(load(None, {})))["image_bytes_total_max"]
    assert shown.pop("description")
    assert shown == {
        "value": 10 * 2**30,
        "unit": "bytes",
        "default": 10 * 2**30,
        "source": "default",
        "reloadable": True,
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rest_port": 9080}, "rest_port and grpc_port are both 9080"),
        ({"peers": ("127.0.0.1:9080",)}, "peers names this node itself"),
        ({"peers": ("b:1", "b:1")}, "peers names b:1 more than once"),
        ({"model": "/absent"}, "model: there is no /absent"),
        ({"emulated_mode_file": "/absent"}, "emulated_mode_file: there is no /absent"),
        ({"policy": "fastest"}, "policy: unknown policy 'fastest'"),
        ({"policy_options": {"x": 1}}, "has no option x"),
        ({"guard_rules": ("ring", "lad_ts")}, "guard_rules: lad_ts is learned; name rules"),
        ({"guard_rule": "fastest"}, "guard_rules: unknown policy 'fastest'"),
        ({"worker_socket": f"/run/{'w' * 120}"}, "bytes long"),
        ({"data_folder": "/dev/null/data"}, "data_folder: /dev/null is not a folder"),
    ],
)
def test_what_would_keep_a_node_from_working(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    (problem,) = problems(load_config(None, {"data_folder": tmp_path} | settings))
    assert said in problem


def test_a_good_configuration_has_no_problem(tmp_path: Path) -> None:
    assert problems(load_config(None, {"data_folder": tmp_path / "new", "rest_port": 0})) == []


def test_check_says_everything_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = ("config", "check", "--set", f"data_folder={tmp_path}")
    assert main(good) == 0
    assert main([*good, "--set", "rest_port=9080", "--set", "model=/absent"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert main([*good, "--set", "rest_prt=1", "--set", "lease_s=-1"]) == 2
    assert "Did you mean rest_port?" in capsys.readouterr().err
    assert main(["config", "show", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(SETTINGS)
