"""`/openapi.json`, made from the declared collections."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.client import multiplex
from atoll.config.version import VERSION
from atoll.errors import error_classes
from atoll.http.exchange import Exchange
from atoll.schema.application import Application

_SESSION = {
    "name": "Atoll-Session",
    "in": "header",
    "schema": {"type": "string"},
    "description": "What the session has seen.",
}
_IDEMPOTENCY = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}}
_IF_MATCH = {"name": "If-Match", "in": "header", "schema": {"type": "string"}}
_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
}
_READ = [
    {
        "name": "consistency",
        "in": "query",
        "schema": {"type": "string", "enum": ["eventual", "session", "causal", "bounded", "strong"]},
    },
    {"name": "max_staleness", "in": "query", "schema": {"type": "number", "minimum": 0}},
    {"name": "max_wait", "in": "query", "schema": {"type": "number", "minimum": 0}},
]
_LIST = [
    {"name": "prefix", "in": "query", "schema": {"type": "string"}},
    {
        "name": "where",
        "in": "query",
        "schema": {"type": "array", "items": {"type": "string"}},
        "description": "field:op:value with op one of eq, ne, lt, le, gt, ge, contains",
    },
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}},
    {"name": "cursor", "in": "query", "schema": {"type": "string"}},
]


class Description:
    """The document of one region, made when it is first asked for."""

    def __init__(self, application: Application, url: str) -> None:
        self._application = application
        self._url = url
        self._encoded: bytes | None = None

    async def answer(self, exchange: Exchange) -> None:
        if self._encoded is None:
            self._encoded = msgspec.json.encode(describe(self._application, self._url))
        await exchange.answer_tagged(self._encoded)


def describe(application: Application, url: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for name in application.collections:
        document = {"$ref": f"#/components/schemas/{name}"}
        shown = {
            "type": "object",
            "required": ["key", "value", "version"],
            "properties": {"key": {"type": "string"}, "value": document, "version": {"type": "string"}},
        }
        paths[f"/v1/{name}"] = {
            "get": _operation(
                f"list_{name}",
                [*_LIST, *_READ, _SESSION],
                {
                    "type": "object",
                    "properties": {
                        "items": {"type": "array", "items": shown},
                        "cursor": {"type": ["string", "null"]},
                    },
                },
            )
        }
        paths[f"/v1/{name}/{{key}}"] = {
            "get": _operation(f"get_{name}", [_KEY, *_READ, _SESSION], shown),
            "put": _operation(f"put_{name}", [_KEY, _SESSION, _IDEMPOTENCY, _IF_MATCH], shown, body=document),
            "patch": _operation(
                f"patch_{name}", [_KEY, _SESSION, _IDEMPOTENCY, _IF_MATCH], shown, body={"type": "object"}
            ),
            "delete": _operation(f"delete_{name}", [_KEY, _SESSION, _IDEMPOTENCY, _IF_MATCH], shown),
        }
    anything = {"type": "object"}
    paths["/v1/batch"] = {"post": _operation("batch", [_SESSION, _IDEMPOTENCY], anything, body=anything)}
    binary = {"type": "string", "format": "binary"}
    paths["/v1/multiplex"] = {
        "post": _operation("multiplex", [], binary, body=binary, content_type=multiplex.CONTENT_TYPE)
    }
    paths["/v1/changes"] = {"get": _operation("changes", [], anything)}
    paths["/v1/conflicts"] = {"get": _operation("conflicts", [], anything)}
    paths["/v1/conflicts/{id}/resolve"] = {
        "post": _operation("resolve_conflict", [{**_KEY, "name": "id"}], anything, body=anything)
    }
    paths["/v1/ids/{kind}"] = {"post": _operation("new_ids", [{**_KEY, "name": "kind"}], anything)}
    for check in ("live", "ready", "serving", "reading"):
        paths[f"/health/{check}"] = {"get": _operation(f"health_{check}", [], anything)}
    paths["/metrics"] = {
        "get": {"operationId": "metrics", "responses": {"200": {"description": "Prometheus text"}}}
    }
    schemas = application.json_schemas()
    schemas["Problem"] = {
        "type": "object",
        "description": "RFC 9457. `definite` tells whether surely nothing happened.",
        "properties": {
            "type": {
                "type": "string",
                "enum": sorted(f"urn:atoll:problem:{slug}" for slug in error_classes()),
            },
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "definite": {"type": "boolean"},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Atoll: {application.name}", "version": VERSION},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(
    name: str,
    parameters: list[dict[str, Any]],
    answer: dict[str, Any],
    body: dict[str, Any] | None = None,
    content_type: str = "application/json",
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": {content_type: {"schema": answer}}},
            "default": {
                "description": "A problem document",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {content_type: {"schema": body}}}
    return operation
