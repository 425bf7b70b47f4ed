"""The API answers every request as its OpenAPI document says, and never with a 500."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from runtime.settings import Settings
from tests.api_bench import post, running_api, top_up
from tests.posting_bench import PostingBench

EXAMPLES_MAX = 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_is_sent_is_answered_as_documented(
    settings: Settings, bench: PostingBench, mode: GenerationMode
) -> None:
    with running_api(settings) as api, api.client() as client:
        for number in range(3):
            post(client, f"k{number}", top_up(number, 100))
        bench.post()
        key = api.new_key()
        schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) == 40
        statuses: Counter[int] = Counter()
        for operation in operations:

            @given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis_settings(
                max_examples=EXAMPLES_MAX,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case: Any) -> None:
                answer = case.call(headers={"Authorization": f"Bearer {key}"})
                case.validate_response(answer, checks=CHECKS)
                statuses[answer.status_code] += 1

            if mode is GenerationMode.POSITIVE or can_be_wrong(operation):
                ask()
    assert statuses.total() > 100
    assert statuses[422] > 10  # most generated bodies do not balance, or are no intents
    assert mode is GenerationMode.NEGATIVE or statuses[200] > 50


def can_be_wrong(operation: Any) -> bool:
    """Return whether an operation takes any input that can be invalid."""
    return bool(list(operation.iter_parameters()) or operation.body)
