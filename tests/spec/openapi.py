"""Holding responses to the specification's OpenAPI data.

`check_response` is called by the test client for every response of every HTTP test. The data lies beside the
repository and is not part of it; without it every check is a no-op, and one skipped test says so.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urldefrag, urljoin

import orjson
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

FOLDER = Path(os.environ.get("MATRIX_SPEC_DIR") or Path(__file__).parents[2] / ".." / "shared" / "spec").resolve()

# Relative references are joined on this; it must be an https: URL, and is never fetched.
_BASE = "https://spec.invalid/"
_ERROR_FILE = "openapi/client-server/definitions/errors/error.yaml"
_INVITE_FILE = "openapi/server-server/definitions/invite_event.yaml"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Nonconforming(AssertionError):
    """A response is not what the specification's data says."""


@dataclass(frozen=True)
class Operation:
    """One method on one path template: the document that declares it and the key it has there."""

    method: str
    path: str
    source: str
    operation_id: str

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.operation_id})"


class Specification:
    """The OpenAPI data in a folder, loaded document by document as it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._documents: dict[str, Any] = {}
        self._validators: dict[tuple[Operation, str], Draft202012Validator | None] = {}

    @cached_property
    def operations(self) -> list[Operation]:
        """Every operation of the five APIs, in the order of the table."""
        with (self.folder / "endpoints.csv").open(newline="") as table:
            return [
                Operation(row["method"].upper(), row["path"].strip(), row["source_file"], row["operation_id"])
                for row in csv.DictReader(table)
            ]

    def find(self, method: str, raw_path: str) -> list[Operation]:
        """The operations that a request is for: none, one, or the few that share a path."""
        segments = re.sub(r"^(/_matrix/(?:client|media))/r0/", r"\1/v3/", raw_path.partition("?")[0]).split("/")
        # A trailing empty segment is an empty parameter, or nothing at all: `/state/m.room.name/`, `/pushrules/`.
        shorter = segments[:-1] if segments[-1] == "" else [*segments, ""]
        for candidate in (segments, shorter):
            for literals in self._by_shape.get((method.upper(), len(candidate)), ()):
                found = [operation for pattern, operation in literals if _matches(pattern, candidate)]
                if found:
                    return found
        return []

    def check(self, method: str, raw_path: str, status: int, body: object) -> list[Operation]:
        """Raise `Nonconforming` if the body is not one that the operation may answer; returns what was checked.

        ``body`` is bytes or decoded JSON. Redirects, and answers that are not JSON by their schema, pass.
        """
        if method.upper() in ("OPTIONS", "HEAD") or 300 <= status < 400:
            return []
        operations = self.find(method, raw_path)
        if not operations and not (status >= 400 and raw_path.startswith("/_matrix/")):
            return []
        problems = []
        candidates: list[Operation | None] = [*operations] or [None]
        for operation in candidates:
            problem = self._problem(operation, status, body)
            if problem is None:
                return operations
            problems.append(f"{operation or 'an error of no operation'}: {problem}")
        raise Nonconforming(f"{method} {raw_path} → {status}\n" + "\n".join(problems) + f"\n{_excerpt(body)}")

    def _problem(self, operation: Operation | None, status: int, body: object) -> str | None:
        declared = {} if operation is None else self._responses(operation)
        response = declared.get(str(status))
        if status < 400 and response is None:
            return f"status {status} is not declared, only {', '.join(declared)}"
        if response is not None and "content" in response and "application/json" not in response["content"]:
            return None
        if isinstance(body, (bytes, bytearray, memoryview, str)):
            if not body and response is not None and "content" not in response:
                return None
            try:
                body = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                return f"the body is not JSON: {error}"
        if operation is not None:
            validator = self._validator(operation, str(status))
            problem = validator and _first_problem(validator, body)
            if problem:
                return problem
        if status >= 400:
            # A first answer of user-interactive authentication is a 401 that is not an error.
            if status == 401 and isinstance(body, dict) and "flows" in body and "errcode" not in body:
                return None
            problem = _first_problem(self._error_validator, body)
            if problem:
                return problem
            # CS-API-04: the text requires both, the schema only `errcode`.
            if isinstance(body, dict) and not isinstance(body.get("error"), str):
                return "an error has no text in `error`"
        return None

    @cached_property
    def _by_shape(self) -> dict[tuple[str, int], list[list[tuple[list[str], Operation]]]]:
        """Templates by method and number of segments, those with more literal segments first."""
        shapes: dict[tuple[str, int], dict[tuple[bool, ...], list[tuple[list[str], Operation]]]] = {}
        for operation in self.operations:
            pattern = operation.path.split("/")
            literal = tuple(not segment.startswith("{") for segment in pattern)
            shapes.setdefault((operation.method, len(pattern)), {}).setdefault(literal, []).append((pattern, operation))
        return {
            shape: [patterns for _, patterns in sorted(by_literal.items(), reverse=True)]
            for shape, by_literal in shapes.items()
        }

    def _responses(self, operation: Operation) -> dict[str, Any]:
        """Responses by status, references at their top followed."""
        document = self._document(operation.source)
        responses = self._declaration(operation)[1].get("responses", {})
        return {str(status): _follow(document, response) for status, response in responses.items()}

    def _declaration(self, operation: Operation) -> tuple[str, dict[str, Any]]:
        """The path key in the document and the operation under it."""
        document = self._document(operation.source)
        base_path = document["servers"][0]["variables"]["basePath"]["default"].rstrip("/")
        for key, methods in document["paths"].items():
            # Two keys end in a blank, to tell two operations on one path apart.
            if base_path + key.strip() == operation.path and operation.method.lower() in methods:
                return key, methods[operation.method.lower()]
        raise LookupError(f"{operation} is not in {operation.source}")

    def _validator(self, operation: Operation, status: str) -> Draft202012Validator | None:
        """The schema of a status's JSON body; None where the data has none."""
        if (operation, status) not in self._validators:
            self._validators[operation, status] = self._build_validator(operation, status)
        return self._validators[operation, status]

    def _build_validator(self, operation: Operation, status: str) -> Draft202012Validator | None:
        key, declaration = self._declaration(operation)
        response = next((r for s, r in declaration.get("responses", {}).items() if str(s) == status), None)
        if response is None:
            return None
        pointer = ["paths", key, operation.method.lower(), "responses", status]
        if "$ref" in response:
            pointer = response["$ref"].removeprefix("#/").split("/")
            response = _follow(self._document(operation.source), response)
        if "schema" not in response.get("content", {}).get("application/json", {}):
            return None
        pointer += ["content", "application/json", "schema"]
        return self._validator_at(operation.source, pointer)

    def _validator_at(self, source: str, pointer: list[str]) -> Draft202012Validator:
        fragment = "".join("/" + quote(part.replace("~", "~0").replace("/", "~1")) for part in pointer)
        return Draft202012Validator({"$ref": f"{_BASE}{source}#{fragment}"}, registry=self._registry(source))

    @cached_property
    def _error_validator(self) -> Draft202012Validator:
        return self._validator_at(_ERROR_FILE, [])

    def _registry(self, source: str) -> Registry[Any]:
        """A document and all that it refers to. Built ahead: a registry forgets what it retrieves on the way."""
        wanted, resources = [source], dict[str, Resource[Any]]()
        while wanted:
            name = wanted.pop()
            if _BASE + name in resources:
                continue
            document = self._document(name)
            resources[_BASE + name] = DRAFT202012.create_resource(document)
            for reference in _references(document):
                target = urldefrag(urljoin(_BASE + name, reference)).url
                if target.startswith(_BASE):
                    wanted.append(target.removeprefix(_BASE))
        return Registry[Any]().with_resources(resources.items())

    def _document(self, name: str) -> Any:
        if name not in self._documents:
            # Status codes and version numbers are keys in places.
            self._documents[name] = _with_text_keys(yaml.load((self.folder / name).read_text(), _Loader))
            if name == _INVITE_FILE:
                # Invites must come back as they were, and `origin` is no field of any event format.
                self._documents[name]["allOf"][0]["required"].remove("origin")
        return self._documents[name]


@cache
def specification() -> Specification | None:
    """The data beside the repository; None where it is absent."""
    return Specification(FOLDER) if (FOLDER / "endpoints.csv").exists() else None


def check_response(method: str, raw_path: str, status: int, body: object) -> None:
    """Raise `Nonconforming` unless the specification allows this response; do nothing where its data is absent."""
    known = specification()
    if known is not None:
        known.check(method, raw_path, status, body)


def _matches(pattern: list[str], segments: list[str]) -> bool:
    return all(p.startswith("{") or p == s for p, s in zip(pattern, segments, strict=True))


def _follow(document: Any, response: Any) -> Any:
    while "$ref" in response:
        target = document
        for part in response["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        response = target
    return response


def _references(node: Any) -> Iterator[str]:
    # Examples have references of their own, in a way of the specification's that no validator follows.
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif key not in ("example", "examples"):
                yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _with_text_keys(node: Any) -> Any:
    if isinstance(node, dict):
        named = {str(key): _with_text_keys(value) for key, value in node.items()}
        if {"type": "object"} in named.get("oneOf", ()):
            # "Exactly one" cannot be meant where one of the alternatives is any object.
            named["anyOf"] = named.pop("oneOf")
        return named
    if isinstance(node, list):
        return [_with_text_keys(item) for item in node]
    return node


def _first_problem(validator: Draft202012Validator, body: object) -> str | None:
    if validator.is_valid(body):
        return None
    error = best_match(validator.iter_errors(body))
    assert error is not None
    return f"{error.json_path}: {error.message[:500]}"


def _excerpt(body: object) -> str:
    text = body if isinstance(body, (bytes, str)) else orjson.dumps(body, default=repr)
    return (text.decode(errors="replace") if isinstance(text, bytes) else text)[:2000]


def examples(known: Specification) -> Iterable[tuple[Operation, str, Any]]:
    """Every example of a JSON response that needs no reference resolved: operation, status, body."""
    for operation in known.operations:
        for status, response in known._responses(operation).items():
            content = response.get("content", {}).get("application/json", {})
            candidates = [e.get("value") for e in content.get("examples", {}).values()]
            for body in candidates:
                if isinstance(body, dict) and "$ref" not in orjson.dumps(body).decode():
                    yield operation, status, body
