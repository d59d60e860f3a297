"""The OpenAPI document, made from the endpoints, the models of requests and the types of answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from gateway.answers import ErrorAnswer
from gateway.endpoints import Endpoint
from gateway.errors import HTTP_STATUS
from gateway.sessions import COOKIE, CSRF_HEADER
from services.contract.errors import ERRORS, Reason
from services.contract.limits import VERSION

PATH = "/api/openapi.json"
REFERENCE = "#/components/schemas/{model}"

RECORDING = {"type": "string", "format": "binary"}

Json = dict[str, Any]


class OpenApiRoutes:
    """Serves the document of the given endpoints; made once, at the start."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._own = [Endpoint("GET", PATH, self.show, "This document", ("application/json",), session=False)]
        self._document = document([*endpoints, *self._own])

    def endpoints(self) -> list[Endpoint]:
        return self._own

    async def show(self, _request: web.Request) -> web.Response:
        return web.json_response(self._document)


def document(endpoints: Sequence[Endpoint]) -> Json:
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(_template(endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "bulkscribe", "version": VERSION, "description": "Batch transcription over HTTP."},
        "paths": paths,
        "components": {
            "schemas": schemas.all,
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "csrf": {"type": "apiKey", "in": "header", "name": CSRF_HEADER},
            },
        },
    }


class _Schemas:
    """JSON schemas by name; asking for one gives a reference to it."""

    def __init__(self) -> None:
        self.all: dict[str, Json] = {}

    def of_type(self, kind: Any) -> Json:
        schema = TypeAdapter(kind).json_schema(ref_template=REFERENCE)
        self._keep(schema.pop("$defs", {}))
        self._keep({kind.__name__: schema})
        return {"$ref": REFERENCE.format(model=kind.__name__)}

    def of_model(self, model: type[BaseModel]) -> Json:
        references, schema = models_json_schema([(model, "validation")], ref_template=REFERENCE)
        self._keep(schema.get("$defs", {}))
        return references[model, "validation"]

    def _keep(self, schemas: dict[str, Json]) -> None:
        self.all.update(schemas)


def _operation(endpoint: Endpoint, schemas: _Schemas) -> Json:
    operation: Json = {
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": {str(endpoint.status): _answer(endpoint, schemas), **_errors(endpoint, schemas)},
        "security": [{"session": [], **({"csrf": []} if endpoint.changes else {})}] if endpoint.session else [],
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": schemas.of_model(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.multipart:
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _files()}}}
    if endpoint.stream:
        operation["requestBody"] = {"content": {endpoint.stream: {"schema": RECORDING}}}
    return operation


def _answer(endpoint: Endpoint, schemas: _Schemas) -> Json:
    if endpoint.answer is None:
        return {"description": endpoint.summary}
    if isinstance(endpoint.answer, tuple):
        return {"description": endpoint.summary, "content": {kind: {} for kind in endpoint.answer}}
    content = {"application/json": {"schema": schemas.of_type(endpoint.answer)}}
    content |= {kind: {"schema": {"type": "string"}} for kind in endpoint.other_types}
    return {"description": endpoint.summary, "content": content}


def _errors(endpoint: Endpoint, schemas: _Schemas) -> Json:
    reasons = [*endpoint.errors, *([Reason.UNAUTHENTICATED] if endpoint.session else [])]
    if endpoint.session and endpoint.changes:
        reasons[-1] = Reason.CSRF_INVALID
    by_status: dict[int, list[Reason]] = {}
    for reason in reasons:
        by_status.setdefault(HTTP_STATUS[reason], []).append(reason)
    schema = schemas.of_type(ErrorAnswer)
    return {
        str(status): {
            "description": "; ".join(f"{reason.value}: {ERRORS[reason].meaning}" for reason in together),
            "content": {"application/json": {"schema": schema}},
        }
        for status, together in sorted(by_status.items())
    }


def _parameters(endpoint: Endpoint) -> list[Json]:
    path: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", endpoint.path)
    ]
    path += [
        {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}
        for name, description in endpoint.headers
    ]
    if endpoint.query is None:
        return path
    properties = endpoint.query.model_json_schema()["properties"]
    return path + [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _files() -> Json:
    return {"type": "object", "required": ["files"], "properties": {"files": {"type": "array", "items": RECORDING}}}


def _template(path: str) -> str:
    return re.sub(r"{(\w+):[^/]*}", r"{\1}", path)
