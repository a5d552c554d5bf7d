"""Every path against its own description, by schemathesis: hostile bodies find no crash and no answer that is not described."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.client.serve.conftest import Running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PATHS = ("/recommend", "/copy", "/describe", "/reviews", "/profile", "/reply", "/campaign", "/health")


@pytest.mark.parametrize("path", PATHS)
def test_a_path_does_what_its_description_says(service: Running, path: str) -> None:
    schema = schemathesis.openapi.from_dict(service.ask("/openapi.json").json)
    schema.config.update(base_url=f"http://127.0.0.1:{service.port}")  # the description itself names no server
    operation = schema[path]["GET" if path == "/health" else "POST"]

    @settings(
        max_examples=4 if path == "/campaign" else 20,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {service.key}"})
        case.validate_response(answer, checks=CHECKS)

    ask()
