"""The document of the surface: whole, of what is there, and valid JSON Schema."""

from __future__ import annotations

import asyncio

from jsonschema import Draft202012Validator

from edge_node.api.openapi import OPERATIONS
from tests.api.served import served

WITHOUT_BODY = ("/erase", "/retry", "/interrupt", "/skip", "/refresh-checkpoints")


def test_every_address_is_described_and_nothing_else() -> None:
    async def story() -> None:
        async with served() as node:
            document = (await node.http.get("/openapi.json")).json()
            told = {
                (path, method)
                for path, operations in document["paths"].items()
                for method in operations
            }
            assert told == OPERATIONS.keys()
            for schema in document["components"]["schemas"].values():
                Draft202012Validator.check_schema(schema)
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    assert "422" not in operation["responses"], (path, method)
                    assert {"400", "401", "500", "503"} <= operation["responses"].keys()
                    wants_body = method in ("post", "put") and not path.endswith(WITHOUT_BODY)
                    assert ("requestBody" in operation) is wants_body

    asyncio.run(story())
