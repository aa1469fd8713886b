"""KEDA's and Prometheus' documents fit their CustomResourceDefinitions, and the check finds what the server drops."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.crds import (
    document_problems,
    problems,
    schemas,
    trigger_names,
    trigger_problems,
)
from tests.deploy.overlays import rendered

pytestmark = pytest.mark.deploy

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["target"],
            "properties": {
                "target": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$"},
                "count": {"type": "integer", "minimum": 0, "maximum": 10},
                "ratio": {"type": "number"},
                "on": {"type": "boolean"},
                "mode": {"type": "string", "enum": ["fast", "slow"]},
                "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "empty": {"type": "object"},
                "gone": {"type": "string", "nullable": True},
                "names": {"type": "array", "items": {"type": "string"}, "minItems": 1, "x-kubernetes-list-type": "set"},
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                },
                "either": {
                    "type": "object",
                    "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                    "not": {"required": ["a", "b"]},
                },
            },
        },
    },
}
GOOD = [
    {"count": 0, "ratio": 1, "on": False, "mode": "slow"},
    {"port": 80},
    {"port": "http", "labels": {"a": "b"}, "free": {"what": ["ever"]}},
    {"gone": None, "names": ["a", "b"], "ports": [{"name": "a"}, {"name": "b"}], "either": {"a": "x"}},
]
BAD = [
    ({"targett": "a"}, "spec.targett: unknown field"),
    ({"target": ""}, "spec.target: '' is shorter than 1"),
    ({"target": "abcdef"}, "spec.target: 'abcdef' is longer than 5"),
    ({"target": "A"}, "spec.target: 'A' does not match ^[a-z]+$"),
    ({"target": None}, "spec.target: null"),
    ({"target": 5}, "spec.target: 5 is no string"),
    ({"count": "5"}, "spec.count: '5' is no integer"),
    ({"count": True}, "spec.count: True is no integer"),
    ({"count": 1.5}, "spec.count: 1.5 is no integer"),
    ({"count": -1}, "spec.count: -1 is less than 0"),
    ({"count": 11}, "spec.count: 11 is more than 10"),
    ({"ratio": "1"}, "spec.ratio: '1' is no number"),
    ({"on": "yes"}, "spec.on: 'yes' is no boolean"),
    ({"mode": "Fast"}, "spec.mode: 'Fast' is none of fast, slow"),
    ({"port": 8.5}, "spec.port: 8.5 is neither an integer nor a string"),
    ({"labels": {"a": 1}}, "spec.labels.a: 1 is no string"),
    ({"labels": {"a": "", "b": ""}}, "spec.labels: {'a': '', 'b': ''} has more fields than 1"),
    ({"labels": ["a"]}, "spec.labels: ['a'] is no object"),
    ({"empty": {"a": 1}}, "spec.empty.a: unknown field"),
    ({"names": []}, "spec.names: [] has fewer items than 1"),
    ({"names": [1]}, "spec.names[0]: 1 is no string"),
    ({"names": ["a", "a"]}, "spec.names: two items have the same key"),
    ({"ports": [{"name": "a"}, {"name": "a"}]}, "spec.ports: two items have the same key"),
    ({"ports": [{"nme": "a"}]}, "spec.ports[0].nme: unknown field"),
    ({"either": {}}, "spec.either: not exactly one alternative holds"),
    ({"either": {"a": "", "b": ""}}, "spec.either: what must not hold does"),
]


def document(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a"}, "spec": {"target": "a", **spec}}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """SCHEMA with the fields that every document has."""
    fields = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, **SCHEMA["properties"]}
    return {**SCHEMA, "properties": fields}


@pytest.mark.parametrize("spec", GOOD)
def test_a_document_that_fits_has_no_problem(spec: dict[str, Any], schema: dict[str, Any]) -> None:
    assert document_problems(document(**spec), schema) == []


@pytest.mark.parametrize(("spec", "sentence"), BAD)
def test_a_document_that_does_not_fit_has_one(spec: dict[str, Any], sentence: str, schema: dict[str, Any]) -> None:
    assert sentence in document_problems(document(**spec), schema)


def test_missing_fields_and_fields_outside_spec_are_found(schema: dict[str, Any]) -> None:
    assert document_problems({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a"}}, schema) == [
        "spec: missing"
    ]
    odd = {**document(), "sepc": {}, "metadata": {"name": "a", "label": {}}}
    assert document_problems(odd, schema) == ["metadata.label: unknown field", "sepc: unknown field"]
    assert list(problems({"spec": {}}, schema)) == ["spec.target: missing"]


def test_triggers_that_keda_does_not_know_are_found() -> None:
    known = {"redis": {"listName", "passwordFromEnv"}}
    good = {"spec": {"triggers": [{"type": "redis", "metadata": {"listName": "a", "passwordFromEnv": "B"}}]}}
    assert trigger_problems(good, known) == []
    bad = {"spec": {"triggers": [{"type": "redis", "metadata": {"listname": "a"}}, {"type": "reddis"}]}}
    assert trigger_problems(bad, known) == [
        "triggers[0]: scaler redis knows no metadata 'listname'",
        "triggers[1]: KEDA has no scaler 'reddis'",
    ]


def test_documents_of_keda_and_prometheus_fit() -> None:
    known, found = schemas(), {}
    for each in rendered("overlays/production"):
        if schema := known.get((each["apiVersion"], each["kind"])):
            found[f"{each['kind']}/{each['metadata']['name']}"] = document_problems(each, schema)
    assert {name.partition("/")[0] for name in found} >= {"ScaledObject", "TriggerAuthentication", "PrometheusRule"}
    assert {name: problem for name, problem in found.items() if problem} == {}


def test_kedas_triggers_have_metadata_that_keda_reads() -> None:
    scaled = [each for each in rendered("overlays/production") if each["kind"] == "ScaledObject"]
    assert scaled
    assert [trigger_problems(each, trigger_names()) for each in scaled] == [[]]
