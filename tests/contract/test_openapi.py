"""The OpenAPI document is sound, and the server does what it says: schemathesis calls every operation."""

import json
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from rowcast.service.app import create_app
from rowcast.service.settings import Settings
from wire import get

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    negative_data_rejection, positive_data_acceptance, unsupported_method, ignored_auth,
]  # fmt: skip


@pytest.fixture(scope="module")
def document(shared: Any) -> dict[str, Any]:
    body: dict[str, Any] = get(f"{shared.url}/api/openapi.json").json()
    return body


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(document["components"]["schemas"])
    used = {part.partition('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert used <= names
    assert names - used == set(), "described but never used"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_operations_are_named_once(document: dict[str, Any]) -> None:
    operations = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(set(operations)) == len(operations)
    assert "get_query_metadata" in operations


def test_no_two_paths_are_the_same(document: dict[str, Any]) -> None:
    """Paths that differ in the names of their parameters only are the same to OpenAPI, and not allowed."""
    shapes = ["/".join("{}" if "{" in part else part for part in path.split("/")) for path in document["paths"]]
    assert len(set(shapes)) == len(shapes)


# A test of each operation is made from it, before any server runs.
SCHEMA = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


def test_the_server_serves_this_very_document(document: dict[str, Any]) -> None:
    assert document == SCHEMA.raw_schema


@pytest.fixture(scope="module")
def owned(shared: Any) -> dict[str, str]:
    """What is there to be found, by the names of parameters; `id` names a session or a request."""
    with shared.client() as client:
        session = client.post("/api/session").json()["session_id"]
        request = client.post(f"/api/request/{session}", json={"request": "x"}).json()["request_id"]
        return {
            "authorization": client.headers["authorization"], "session_id": session, "POST": session, "PATCH": request,
        }  # fmt: skip


def aim(case: Any, owned: dict[str, str]) -> None:
    """Have about half of the well-formed ids name something that is there. A stream that opens would not end."""
    if case.method == "DELETE" or case.operation.definition.raw["operationId"] == "follow_session":
        return
    for name, value in case.path_parameters.items():
        if UUID.fullmatch(str(value)) and int(str(value)[-1], 16) % 2:
            case.path_parameters[name] = owned.get(name) or owned.get(case.method, value)
    if (case.query or {}).get("after"):
        del case.query["after"]  # any text is one to the document, but only what a page gave is one to the server
    if str(case.path_parameters.get("sequence_number", "")).isdigit():
        case.path_parameters["sequence_number"] = "1"


@SCHEMA.parametrize()
@settings(max_examples=15, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_every_operation_does_what_it_says(case: Any, shared: Any, owned: dict[str, str]) -> None:
    aim(case, owned)
    headers = {"Authorization": owned["authorization"]}
    response = case.call(base_url=shared.url, headers=headers, timeout=20)
    # A body that is too large is refused before anybody looks whether it is valid; schemathesis expects a 422.
    checks = [check for check in CHECKS if response.status_code != 413 or check is not negative_data_rejection]
    case.validate_response(response, checks=checks)
