from typing import Any

import orjson

from gateway.openapi import _OPERATIONS, FILE, document, text
from gateway.routing import ROUTES


def test_committed_document_is_current() -> None:
    assert FILE.read_bytes() == text(), "run: make openapi"


def test_every_route_and_method_is_described() -> None:
    described = set(_OPERATIONS)
    assert described == {(method, name) for name, methods in ROUTES.items() for method in methods}


def test_references_lead_somewhere() -> None:
    found = document()

    def check(value: Any) -> int:
        if isinstance(value, list):
            return sum(check(each) for each in value)
        if not isinstance(value, dict):
            return 0
        count = sum(check(each) for each in value.values())
        if isinstance(value.get("$ref"), str):
            _, components, schemas, name = value["$ref"].split("/")
            assert name in found[components][schemas]
            count += 1
        return count

    assert check(found) > 10


def test_bodies_are_those_of_the_contract() -> None:
    schemas = orjson.loads(FILE.read_bytes())["components"]["schemas"]
    assert set(schemas["TaskCancel"]["properties"]) == {"reason"}
    assert schemas["TaskDispatch"]["required"] == ["task_type"]
    assert "event_id" not in schemas["ContextWrite"]["properties"]
    assert schemas["ContextWrite"]["additionalProperties"] is False
