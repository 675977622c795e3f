"""The secret that signs callbacks, and the signature that Standard Webhooks gives as an example."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from edge_node.api.callbacks import CallbackSettings, secret_in, signature
from edge_node.config import NodeConfig
from edge_node.config_sources import InvalidConfig


def test_the_signature_is_the_one_of_the_specification() -> None:
    """Secret, id, time, body and signature as in its reference libraries' tests."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(
        secret,
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 bytes"),
        ("c2hvcnQ=", "has 5 bytes"),
        ("not base64!", "has no secret"),
        ("schlüssel", "has no secret"),
    ],
)
def test_a_secret_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidConfig, match=said):
        secret_in(path)


def test_origins_need_a_secret(tmp_path: Path) -> None:
    config = NodeConfig(callback_origins=("https://hooks.example.com",))
    with pytest.raises(InvalidConfig, match="openssl rand -base64 32"):
        CallbackSettings.of(config)
    with pytest.raises(InvalidConfig, match="No such file"):
        CallbackSettings.of(config.model_copy(update={"callback_secret_file": tmp_path / "no"}))
