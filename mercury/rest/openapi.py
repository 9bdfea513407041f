"""The REST calls described for others, from the declarations that also route and check them (declare.py).

document() is /openapi.json (OpenAPI 3.1, whose schemas are JSON Schema 2020-12). mercury/reference/rest.py makes the
table in docs/rest.md of the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from mercury import __version__
from mercury.errors import CODES, Code
from mercury.http import results
from mercury.rest import shapes
from mercury.rest.calls import RestApi
from mercury.rest.declare import Call, calls_of

CALLS = calls_of(RestApi)
KEY = "key"  # the name of what --server.api.keys asks for
REF = "#/components/schemas/{name}"

ABOUT = """\
The API for an application's backend. Answers are {"status":"ok","body":…} or {"status":"error","error":"reason in
words","code":"…"}. Names in paths are percent-encoded UTF-8. Unknown keys and parameters are refused."""


def document(calls: Sequence[Call] = CALLS) -> dict[str, Any]:
    """The description of these calls."""
    paths: dict[str, dict[str, Any]] = {}
    schemas = _schemas(calls)
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, schemas)
    for struct in {kind for call in calls for kind in (call.query, call.headers) if kind}:
        del schemas[struct.__name__]  # told as parameters
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mercury", "version": __version__, "description": " ".join(ABOUT.split())},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {KEY: {"type": "http", "scheme": "bearer"}}},
    }


def _schemas(calls: Sequence[Call]) -> dict[str, Any]:
    structs: dict[type[Struct], None] = {results.Error: None}
    for call in calls:
        for kind in (call.query, call.headers, call.body, *call.results):
            if kind is not None:
                structs[kind] = None
    _, schemas = msgspec.json.schema_components(list(structs), ref_template=REF)
    for struct in structs:
        if issubclass(struct, shapes.Body):
            schemas[struct.__name__] |= struct.rules
    return schemas


def _operation(call: Call, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": call.name, "summary": call.summary}
    if call.details:
        operation["description"] = call.details
    if not call.open:
        operation["security"] = [{KEY: []}, {}]  # only where keys are configured
    if parameters := list(_parameters(call, schemas)):
        operation["parameters"] = parameters
    if call.body is not None:
        operation["requestBody"] = {"required": not call.optional, "content": _json(_ref(call.body))}
    operation["responses"] = {str(status): response for status, response in sorted(_responses(call))}
    return operation


def _parameters(call: Call, schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    (name_schema,), _ = msgspec.json.schema_components([shapes.Name])
    for name in call.names:
        yield {"name": name, "in": "path", "required": True, "schema": name_schema}
    for where, struct in (("query", call.query), ("header", call.headers)):
        if struct is not None:
            schema = schemas[struct.__name__]
            for name, field in schema["properties"].items():
                yield {"name": name, "in": where, "required": name in schema["required"], "schema": field}


def _responses(call: Call) -> Iterator[tuple[int, dict[str, Any]]]:
    for result in call.results:
        body = {"status": {"const": "ok"}, "body": _ref(result)}
        yield result.http_status, _response(result.__doc__ or "", _object(body))
    if not call.results:
        if call.media is None:
            yield 200, _response("Done.", _object({"status": {"const": "ok"}}))
        else:
            schema = {"type": "object" if "json" in call.media else "string"}
            yield 200, {"description": call.summary, "content": {call.media.partition(";")[0]: {"schema": schema}}}
    by_status: dict[int, list[Code]] = {}
    for code in call.errors:
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, codes in by_status.items():
        yield status, _response("; ".join(f"{code}: {CODES[code][1]}" for code in codes), _ref(results.Error))


def _response(words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": _json(schema)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(struct: type[Struct]) -> dict[str, Any]:
    return {"$ref": REF.format(name=struct.__name__)}
