"""Settings: where they come from, and that a wrong one names itself."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from edge_node.child_options import (
    attached_learner,
    attached_worker,
    judge_options,
    learner_alive_path,
    learner_command,
)
from edge_node.client_variables import FOR_CLIENTS
from edge_node.config import SETTINGS, NodeConfig
from edge_node.config_sources import InvalidConfig, load, load_config
from edge_node.errors import InvalidRequest
from edge_node.worker.__main__ import checked, command_line


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
    assert config.policy == "lad_ts"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"lease": 5}, "Did you mean lease_s?"),
        ({"rest_port": 70000}, "rest_port"),
        ({"node_id": "a b"}, "node_id"),
        ({"grpc_host": "0.0.0.0"}, "allow_insecure_peering = true"),
        ({"lease_s": 0.6}, "at least twice heartbeat_s"),
        ({"queue_promotion": "15,1"}, "leave queue_ageing, queue_promotion and"),
        ({"queue_promotion_load": 0.9}, "leave queue_ageing, queue_promotion and"),
        ({"queue_order": "srpt", "queue_promotion_load": -1}, "queue_promotion_load"),
        ({"queue_order": "srpt", "queue_promotion": "15"}, "queue_promotion"),
        ({"queue_order": "srpt", "queue_ageing": -1}, "queue_ageing"),
        ({"guard_rules": "ring", "guard_rule": "local"}, "former name of guard_rules: leave"),
        ({"guard_rules": ""}, "guard_rules"),
        ({"tick_s": 60}, "tick_s"),
        ({"worker_hang_s": 0.001}, "worker_hang_s"),
        ({"peers": "orin-2:9080,orin-3:99999"}, "peers names orin-3:99999: ports end at 65535"),
        (
            {"data_folder": "/srv/\udcff"},
            "data_folder is '/srv/.*write it in UTF-8",
        ),
        ({"policy": "\udcff"}, "policy is .*write it in UTF-8"),
    ],
)
def test_a_wrong_setting_says_what_to_do(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load_config(None, overrides)


def test_no_setting_is_a_number_that_means_nothing() -> None:
    floats = [
        key
        for key, field in NodeConfig.model_fields.items()
        if float in (field.annotation, *typing.get_args(field.annotation))
    ]
    assert len(floats) > 30
    for key in floats:
        unbounded = key in ("forget_s", "task_keep_s", "image_keep_s", "queue_wait_s_max")
        for text in ("nan", "-inf", *(() if unbounded else ("inf",))):
            with pytest.raises(InvalidRequest, match=key):
                load_config(None, {key: text})


def test_the_guards_rules_are_a_list_and_were_one() -> None:
    assert load_config(None, {"guard_rules": "ring, local"}).rules_compared == ("ring", "local")
    assert load_config(None, {"guard_rule": "local"}).rules_compared == ("local",)
    assert load_config(None, {}).rules_compared[0] == "ring"
    command = " ".join(judge_options(load_config(None, {"guard_rules": "ring,local"})))
    assert "--judge-rule ring --judge-rule local" in command


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDGEAI_LEASE", "3")
    overrides = {"rest_port": "70000", "peers": "orin-1", "redis_url": "localhost"}
    with pytest.raises(InvalidConfig) as caught:
        load_config(None, overrides)
    assert caught.value.problems == (
        "lease (environment) is not a setting. Did you mean lease_s?",
        "rest_port (command line) is '70000': input should be less than or equal to 65535.",
        "peers (command line) is 'orin-1': it should be host:port of other nodes' gRPC listeners.",
        "redis_url (command line) is 'localhost': it should be redis://host:port/0 or "
        "unix:///path of a Valkey that runs beside the node; else the node starts one under "
        "data_folder.",
    )
    with pytest.raises(InvalidConfig) as caught:
        load_config(None, {"grpc_host": "0.0.0.0", "heartbeat_s": 4})
    assert len(caught.value.problems) == 3


def test_a_variable_without_a_value_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDGEAI_MODEL", "")
    monkeypatch.setenv("DEDGEAI_REST_PORT", "")
    loaded = load(None, {})
    assert (loaded.config.model, loaded.config.rest_port) == (None, 8080)
    assert set(loaded.sources.values()) == {"default"}


def test_the_environment_can_say_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEDGEAI_CLIP_FILES", "l.safetensors, g.safetensors,")
    monkeypatch.setenv("DEDGEAI_GUIDANCE_INTERVAL", "0.1,0.9")
    monkeypatch.setenv("DEDGEAI_POLICY_OPTIONS", "checkpoint=a.safetensors,weight=0.5")
    monkeypatch.setenv("DEDGEAI_REDIS_URL", "unix:///run/dedgeai/valkey.sock")
    config = load_config(None, {"peers": ""})
    assert config.clip_files == (Path("l.safetensors"), Path("g.safetensors"))
    assert config.guidance_interval == (0.1, 0.9)
    assert config.policy_options == {"checkpoint": "a.safetensors", "weight": 0.5}
    assert config.redis_url == "unix:///run/dedgeai/valkey.sock"
    assert config.peers == ()


def test_every_setting_says_what_it_is() -> None:
    assert set(SETTINGS) == set(NodeConfig.model_fields)
    for key, setting in SETTINGS.items():
        assert setting.description, key
        words = key.split("_")
        if "s" in words:
            assert setting.unit.startswith("s"), key
        if "bytes" in words:
            assert setting.unit == "bytes", key


def test_the_commands_beside_a_node_need_what_it_shares(tmp_path: Path) -> None:
    alone = load_config(None, {"data_folder": tmp_path})
    for command in (attached_worker, attached_learner):
        with pytest.raises(InvalidRequest, match="is not set"):
            command(alone)
    shared = {
        "data_folder": tmp_path,
        "worker_socket": "/run/w.sock",
        "redis_url": "unix:///run/v.sock",
    }
    config = load_config(None, shared)
    worker = checked(command_line(attached_worker(config)[3:]))
    assert worker.socket_path == Path("/run/w.sock")
    assert worker.options.worker_lock == tmp_path / "run" / "accelerator.lock"
    learner = attached_learner(config)
    assert learner[learner.index("--store") + 1] == "unix:///run/v.sock"
    assert learner[learner.index("--alive") + 1] == str(learner_alive_path(config))
    with pytest.raises(InvalidRequest, match="two would learn"):
        attached_learner(load_config(None, shared | {"learner": True}))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no configuration file"):
        load_config(tmp_path / "absent.toml", {})
    broken = tmp_path / "broken.toml"
    broken.write_text("node_id = ")
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        load_config(broken, {})


@pytest.mark.parametrize("interval", [(0.9, 0.1), (-0.1, 0.5), (0.5, 1.5), (0.5, 0.5)])
def test_an_interval_that_the_worker_would_refuse_is_refused_here(
    interval: tuple[float, float],
) -> None:
    with pytest.raises(ValueError, match="give two noise levels with"):
        NodeConfig(guidance_interval=interval)


def test_no_default_is_beyond_what_a_request_may_say() -> None:
    bounded = {key for key in SETTINGS if f"{key.removesuffix('_default')}_max" in SETTINGS}
    bounded = {key for key in bounded if key.endswith("_default")}
    assert bounded == {"guidance_scale_default", "deadline_s_default"}
    for default in bounded:
        bound = f"{default.removesuffix('_default')}_max"
        with pytest.raises(InvalidConfig) as caught:
            load_config(None, {bound: 2.0, default: 2.5})
        assert caught.value.problems == (
            f"{default} is 2.5, more than {bound}, which is 2: lower the one or raise the other.",
        )
        assert load_config(None, {bound: 2.0, default: 2.0})
    with pytest.raises(InvalidConfig, match="deadline_s_default is 3600, more than deadline_s_max"):
        load_config(None, {"deadline_s_max": 600})


def test_listening_for_others_needs_certificates_or_trust() -> None:
    with pytest.raises(InvalidRequest, match=r"dedgeai certs.*tls_folder.*allow_insecure_peering"):
        load_config(None, {"grpc_host": "0.0.0.0"})
    assert load_config(None, {"grpc_host": "0.0.0.0", "tls_folder": "/etc/tls"}).tls_folder
    trusted = load_config(None, {"grpc_host": "0.0.0.0", "allow_insecure_peering": "true"})
    assert trusted.tls_folder is None
    assert load_config(None, {"grpc_host": "127.0.0.1"}).tls_folder is None


def test_the_learner_proves_itself_as_its_node_does(tmp_path: Path) -> None:
    plain = load_config(None, {"data_folder": str(tmp_path)})
    assert "--tls" not in learner_command(plain, "unix:///x")
    given = {"data_folder": str(tmp_path), "tls_folder": "/etc/tls", "cluster_name": "lab"}
    command = learner_command(load_config(None, given), "unix:///x")
    assert command[command.index("--tls") + 1] == "/etc/tls"
    assert command[command.index("--cluster-name") + 1] == "lab"


def test_what_clients_find_in_the_environment_is_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in FOR_CLIENTS:
        monkeypatch.setenv(name, "x")
    assert load(None, {}).sources.keys() == SETTINGS.keys()
