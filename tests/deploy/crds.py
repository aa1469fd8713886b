"""Documents of custom resources held strictly to their CustomResourceDefinitions, and KEDA's triggers to its scalers.

The API server drops fields that a CRD does not know without a word, so a misspelt one goes unnoticed. Here they are
problems. Rules in CEL (x-kubernetes-validations) are not evaluated: those need a server.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import ROOT

Schema = dict[str, Any]
Key = tuple[str, str]  # apiVersion and kind

SCALERS = "scalers-schema.json"
OBJECT_META = {"annotations", "finalizers", "generateName", "labels", "name", "namespace", "ownerReferences"}
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("is less than", lambda value, limit: value >= limit),
    "maximum": ("is more than", lambda value, limit: value <= limit),
    "minLength": ("is shorter than", lambda value, limit: len(value) >= limit),
    "maxLength": ("is longer than", lambda value, limit: len(value) <= limit),
    "minItems": ("has fewer items than", lambda value, limit: len(value) >= limit),
    "maxItems": ("has more items than", lambda value, limit: len(value) <= limit),
    "minProperties": ("has fewer fields than", lambda value, limit: len(value) >= limit),
    "maxProperties": ("has more fields than", lambda value, limit: len(value) <= limit),
}


def folder() -> Path:
    """Where the CRDs are: DEPLOY_CRDS, or beside the repository. They are data of other projects, so a test is skipped
    where there are none.
    """
    path = Path(os.environ.get("DEPLOY_CRDS") or ROOT.parent / "shared" / "deploy" / "crds")
    if not any(path.glob("*.yaml")):
        pytest.skip(f"no CustomResourceDefinitions in {path}; DEPLOY_CRDS names a folder of KEDA's and Prometheus'")
    return path


@cache
def schemas() -> dict[Key, Schema]:
    """The schema of every version of every kind in the folder."""
    found = {}
    for path in sorted(folder().glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


@cache
def trigger_names() -> dict[str, set[str]]:
    """The metadata names of each kind of trigger that KEDA reads. `passwordFromEnv` names a container's variable."""
    scalers = json.loads((folder() / SCALERS).read_text())["scalers"]
    found: dict[str, set[str]] = {scaler["type"]: set() for scaler in scalers}
    for scaler in scalers:
        for parameter in scaler["parameters"]:
            if parameter.get("metadataVariableReadable"):
                found[scaler["type"]].add(parameter["name"])
            if parameter.get("envVariableReadable"):
                found[scaler["type"]].add(f"{parameter['name']}FromEnv")
    return found


def document_problems(document: dict[str, Any], schema: Schema) -> list[str]:
    """What is wrong with a whole document."""
    metadata = document.get("metadata") or {}
    unknown = [f"metadata.{name}: unknown field" for name in metadata if name not in OBJECT_META]
    body = {name: value for name, value in document.items() if name != "metadata"}
    fields = {name: value for name, value in schema.get("properties", {}).items() if name != "metadata"}
    required = [name for name in schema.get("required", []) if name != "metadata"]
    return unknown + list(problems(body, {**schema, "properties": fields, "required": required}))


def trigger_problems(document: dict[str, Any], known: dict[str, set[str]]) -> list[str]:
    """What is wrong with the triggers of a ScaledObject or a ScaledJob, apart from its schema."""
    found = []
    for place, trigger in enumerate(document.get("spec", {}).get("triggers", [])):
        if trigger.get("type") not in known:
            found.append(f"triggers[{place}]: KEDA has no scaler {trigger.get('type')!r}")
            continue
        for name in set(trigger.get("metadata", {})) - known[trigger["type"]]:
            found.append(f"triggers[{place}]: scaler {trigger['type']} knows no metadata {name!r}")
    return sorted(found)


def problems(value: Any, schema: Schema, *, at: str = "", strict: bool = True) -> Iterator[str]:
    """What is wrong with a value, one sentence each. `strict`: fields that the schema does not name are wrong."""
    if value is None:
        if not schema.get("nullable"):
            yield f"{at}: null"
        return
    yield from _of_type(value, schema, at)
    yield from _of_limits(value, schema, at)
    yield from _of_combinations(value, schema, at)
    if isinstance(value, dict):
        yield from _of_object(value, schema, at, strict)
    elif isinstance(value, list):
        yield from _of_array(value, schema, at, strict)


def _of_type(value: Any, schema: Schema, at: str) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if not (TYPES["integer"](value) or TYPES["string"](value)):
            yield f"{at}: {value!r} is neither an integer nor a string"
    elif (wanted := schema.get("type")) and not TYPES[wanted](value):
        yield f"{at}: {value!r} is no {wanted}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {', '.join(map(str, schema['enum']))}"


def _of_limits(value: Any, schema: Schema, at: str) -> Iterator[str]:
    for name, (sentence, holds) in LIMITS.items():
        applies = TYPES["number"](value) if name in ("minimum", "maximum") else _has_length(value, name)
        if name in schema and applies and not holds(value, schema[name]):
            yield f"{at}: {value!r} {sentence} {schema[name]}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        yield f"{at}: {value!r} does not match {schema['pattern']}"


def _has_length(value: Any, name: str) -> bool:
    kinds = {"Length": str, "Items": list, "Properties": dict}
    return isinstance(value, next(kind for end, kind in kinds.items() if name.endswith(end)))


def _of_combinations(value: Any, schema: Schema, at: str) -> Iterator[str]:
    """allOf, anyOf, oneOf and not: in a CRD they only narrow values, and name no new fields."""

    def holds(each: Schema) -> bool:
        return not any(problems(value, each, strict=False))

    for each in schema.get("allOf", []):
        yield from problems(value, each, at=at, strict=False)
    if "anyOf" in schema and not schema.get("x-kubernetes-int-or-string") and not any(map(holds, schema["anyOf"])):
        yield f"{at}: no alternative holds"
    if "oneOf" in schema and sum(map(holds, schema["oneOf"])) != 1:
        yield f"{at}: not exactly one alternative holds"
    if "not" in schema and holds(schema["not"]):
        yield f"{at}: what must not hold does"


def _of_object(value: dict[str, Any], schema: Schema, at: str, strict: bool) -> Iterator[str]:
    fields, more = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at}.{name}: missing".lstrip(".")
    for name, item in value.items():
        place = f"{at}.{name}".lstrip(".")
        if name in fields:
            yield from problems(item, fields[name], at=place, strict=strict)
        elif isinstance(more, dict):
            yield from problems(item, more, at=place, strict=strict)
        elif strict and not more and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{place}: unknown field"


def _of_array(value: list[Any], schema: Schema, at: str, strict: bool) -> Iterator[str]:
    for place, item in enumerate(value):
        yield from problems(item, schema.get("items", {}), at=f"{at}[{place}]", strict=strict)
    keys = schema.get("x-kubernetes-list-map-keys")
    if schema.get("x-kubernetes-list-type") in ("map", "set"):
        seen = [json.dumps([item.get(key) for key in keys] if keys else item) for item in value]
        if len(set(seen)) < len(seen):
            yield f"{at}: two items have the same key"
