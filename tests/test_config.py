"""Settings: where they come from, and that a wrong one names itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.config import load_config
from edge_node.errors import InvalidRequest
from edge_node.node import worker_options
from edge_node.worker.__main__ import parse_arguments
from edge_node.worker.approximations import Approximations
from edge_node.worker.queue_order import Order


def test_file_then_environment_then_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.toml"
    path.write_text('node_id = "kitchen"\nrest_port = 1\nlease_s = 9.0\npeers = ["a:1"]\n')
    monkeypatch.setenv("DEDGEAI_REST_PORT", "2")
    monkeypatch.setenv("DEDGEAI_PEERS", "b:1,c:1")
    config = load_config(path, {"lease_s": "7", "policy": None})
    assert (config.node_id, config.rest_port, config.lease_s) == ("kitchen", 2, 7.0)
    assert config.peers == ("b:1", "c:1")
    assert config.policy == "slow_server_aware"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"lease": 5}, "Did you mean lease_s?"),
        ({"rest_port": 70000}, "rest_port"),
        ({"node_id": "a b"}, "node_id"),
        ({"grpc_host": "0.0.0.0"}, "allow_insecure_peering = true"),
        ({"lease_s": 0.6}, "at least twice heartbeat_s"),
        ({"queue_promotion": "15,1"}, "leave queue_ageing and queue_promotion out"),
        ({"queue_order": "srpt", "queue_promotion": "15"}, "queue_promotion"),
        ({"queue_order": "srpt", "queue_ageing": -1}, "queue_ageing"),
    ],
)
def test_a_wrong_setting_says_what_to_do(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load_config(None, overrides)


def test_the_order_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDGEAI_QUEUE_PROMOTION", "15,1")
    options = worker_options(load_config(None, {"queue_order": "srpt", "queue_ageing": 0.5}))
    parsed = parse_arguments(["--socket", "s", *options])
    assert parsed.order == Order(discipline="srpt", ageing=0.5, promotion=(15.0, 1.0))
    assert parsed.memory_floor == 2**30
    with pytest.raises(SystemExit):
        parse_arguments(["--socket", "s", *options, "--order", "fcfs"])


def test_choices_about_the_model_reach_the_worker() -> None:
    config = load_config(
        None,
        {
            "model": "sd3_medium.safetensors",
            "clip_files": ("l.safetensors", "g.safetensors"),
            "single_file_configs": "configs",
            "stability_license_accepted": True,
            "dtype": "bfloat16",
            "context_mode": "paper",
            "compile_model": "never",
            "taesd3_folder": "taesd3",
            "int8_weights": True,
            "guidance_interval": (0.1, 0.9),
            "step_cache": 0.05,
        },
    )
    parsed = parse_arguments(["--socket", "s", *worker_options(config)])
    assert parsed.model == Path("sd3_medium.safetensors")
    assert parsed.clip == [Path("l.safetensors"), Path("g.safetensors")]
    assert (parsed.dtype, parsed.context_mode, parsed.compile) == ("bfloat16", "paper", "never")
    assert parsed.stability_license_accepted
    assert parsed.model_config == Path("configs")
    assert parsed.approximations == Approximations(
        taesd3=Path("taesd3"), int8_weights=True, guidance_interval=(0.1, 0.9), step_cache=0.05
    )


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no configuration file"):
        load_config(tmp_path / "absent.toml", {})
    broken = tmp_path / "broken.toml"
    broken.write_text("node_id = ")
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        load_config(broken, {})
