"""Who asks: the API key of a request, and whether it allows what is asked for.

Owns which scope an address needs, and that a key counts for as long as it is in force, whatever
began before. Whose tasks are whose is asked where a task has been read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_node.access.keys import ANYBODY, Client
from edge_node.access.keys import Scope as KeyScope
from edge_node.api.addressing import address_name
from edge_node.api.error_responses import error_response
from edge_node.domain import TaskRecord
from edge_node.errors import DEdgeAIError, TaskNotFound

# For those who keep a node running, and say nothing of anybody's tasks; and a list of keys, which
# proves itself. The pages are files, the same for everyone, and so is what /docs shows.
_OPEN = frozenset({"/livez", "/readyz", "/metrics", "/v1/keys"})
_PAGES = frozenset({"/", "/docs", "/openapi.json"})
_FILES = ("/web/", "/docs/")
_OPERATED = ("/v1/dead_letters", "/v1/nodes/")
# What is asked for here is asked again of the REST surface, tool by tool.
_BY_TOOL = "/mcp"
# In a request's state: this node makes it to answer another one, which was counted.
PART_OF_ANOTHER = "part_of_another"
_OF_OWN_REQUESTS = ("/sdapi/", "/internal/")
_READING = frozenset({"GET", "HEAD"})


class InvalidApiKey(DEdgeAIError):
    """There is no key, or none that is in force."""

    code = "invalid_api_key"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class ScopeMissing(DEdgeAIError):
    """The key does not allow this."""

    code = "scope_missing"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class KeyCheck:
    """ASGI middleware; what may not be asked is answered here.

    Args:
        app: what is behind it.
        client_of_key: who asks with a key, or with none; None for nobody who may.
        ask: told of every request that may pass; raises what it is refused with all the same.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        client_of_key: Callable[[str | None], Client | None],
        ask: Callable[[Client], None],
    ) -> None:
        self._app = app
        self._client_of_key = client_of_key
        self._ask = ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass with its client, or says why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = _key_in(scope)
        client = self._client_of_key(key)
        refusal = None if _is_open(scope) else self._why_not(client, scope)
        if refusal is None:
            state = scope.setdefault("state", {})
            state["asking"] = lambda: _demand(self._client_of_key(key))
            await self._app(scope, receive, send)
            return
        response = error_response(refusal, path=scope["path"])
        if client is None:
            response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _why_not(self, client: Client | None, scope: Scope) -> DEdgeAIError | None:
        refusal = _refusal(client, scope)
        counted = scope.get("state", {}).get(PART_OF_ANOTHER, False)
        if refusal is None and client is not None and not counted:
            try:
                self._ask(client)
            except DEdgeAIError as error:
                return error
        return refusal


def client_of(request: Request) -> Client:
    """Who asks, as it is now: a body may take its time to arrive, and a stream does not end.

    Raises:
        InvalidApiKey: the key was revoked meanwhile, or keys are asked for since.
    """
    asking: Callable[[], Client] | None = getattr(request.state, "asking", None)
    client = ANYBODY if asking is None else asking()
    return client if client.id else replace(client, address=address_name(request.scope))


def demand_own(request: Request, identifier: str, *records: TaskRecord) -> None:
    """Another's tasks are not there for who may not operate.

    `identifier` is what was asked for: of the tasks of another's job not even their names are said.

    Raises:
        TaskNotFound: one of them is another's.
    """
    client = client_of(request)
    for record in records:
        if not client.owns(record.task.client):
            raise TaskNotFound.of(identifier)


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    page = path in _PAGES or path.startswith(_FILES)
    return path in _OPEN or (page and scope["method"] in _READING)


def _demand(client: Client | None) -> Client:
    if client is None:
        raise InvalidApiKey(
            "This needs an API key of this cluster that is in force: send the header "
            "Authorization: Bearer <key>. The operator gives one out with `dedgeai keys add`."
        )
    return client


def _refusal(client: Client | None, scope: Scope) -> DEdgeAIError | None:
    try:
        client = _demand(client)
    except InvalidApiKey as error:
        return error
    if scope["path"] == _BY_TOOL:
        return None
    needed = _needed(scope["method"], scope["path"])
    if client.may(needed):
        return None
    # Who draws on AUTOMATIC1111's surface asks it how far that is: of his own requests alone.
    if scope["path"].startswith(_OF_OWN_REQUESTS) and client.may(KeyScope.GENERATE):
        return None
    return ScopeMissing(
        f"This needs a key with the scope {needed}, and this one has "
        f"{', '.join(sorted(client.scopes))}."
    )


def _needed(method: str, path: str) -> KeyScope:
    if path.startswith(_OPERATED):
        return KeyScope.OPERATE
    reads = method in _READING or path == "/internal/progress"
    return KeyScope.READ if reads else KeyScope.GENERATE


def _key_in(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = str(value.decode("latin-1")).partition(" ")
            if scheme.lower() == "bearer":
                return key.strip()
            return _password(key.strip()) if scheme.lower() == "basic" else None
    return None


def _password(pair: str) -> str | None:
    """Of clients that know names and passwords: the key is the password, whatever the name."""
    try:
        name_and_password = base64.b64decode(pair, validate=True).decode()
    except ValueError:
        return None
    return name_and_password.partition(":")[2]
