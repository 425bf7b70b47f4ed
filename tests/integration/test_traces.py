"""One request through the whole running pipeline is one connected trace, and the trace holds no private data."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from runtime.settings import Settings
from runtime.tracing import Attribute
from tests.api_bench import ApiBench, post, top_up
from tests.otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver
from tests.posting_bench import eventually
from tests.service_process import ServiceProcess

SERVICES = ("posting", "relay", "worker", "reconciliation", "audit", "api")
CALLER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN = "00f067aa0ba902b7"
CALLER = f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"
UNSAMPLED = "00-5cf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
"""By default the SDK collects spans for five seconds before it sends them."""


class Pipeline(NamedTuple):
    """All services at work on one ledger, and the collector that receives their spans."""

    api: ApiBench
    client: httpx.Client
    receiver: OtlpReceiver
    processes: dict[str, ServiceProcess]


def started(settings: Settings, folder: Path, stack: ExitStack, **changes: str) -> dict[str, ServiceProcess]:
    """Start every service, and wait until all are ready."""
    processes = {name: stack.enter_context(ServiceProcess(name, settings, folder, **changes)) for name in SERVICES}
    for process in processes.values():
        process.wait_until_ready(120.0)
    return processes


@pytest.fixture
def pipeline(settings: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    """Yield a pipeline that samples a request only if its caller sampled it."""
    with ExitStack() as stack:
        receiver = stack.enter_context(otlp_receiver())
        traced = settings.model_copy(update={"otlp_endpoint": receiver.endpoint, "trace_sample_ratio": 0.0})
        processes = started(traced, tmp_path, stack, **QUICKLY)
        api = ApiBench(f"http://127.0.0.1:{processes['api'].port}", str(settings.postgres_dsn.get_secret_value()))  # type: ignore[union-attr]
        yield Pipeline(api, stack.enter_context(api.client()), receiver, processes)


def linked(receiver: OtlpReceiver, service: str, to: ReceivedSpan) -> ReceivedSpan:
    """Return the span of a service that has a link to another span."""
    return receiver.wait_for(
        lambda span: span.service == f"ledgerline-{service}" and to.context in span.links, f"{service} for {to.name}"
    )


def test_one_request_is_one_connected_trace(pipeline: Pipeline, settings: Settings) -> None:
    client, receiver = pipeline.client, pipeline.receiver
    assert post(client, "untraced", top_up(1, 5_00), traceparent=UNSAMPLED, Prefer="wait=20").status_code == 200
    answer = post(
        client,
        "the-key-of-order-1",
        top_up(77, 987_654),
        traceparent=CALLER,
        Prefer="wait=20",
        X_Correlation_Id="order-1",
    )
    assert answer.status_code == 200
    intent = answer.json()
    receipt = intent["receipt"]

    server = receiver.wait_for(lambda span: span.kind == "SERVER", "the request")
    assert (server.trace_id, server.parent_id) == (CALLER_TRACE, CALLER_SPAN)
    assert server.name == "POST /v1/intents"
    assert server.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/intents",
        "url.scheme": "http",
    }
    sending = receiver.wait_for(lambda span: span.parent_id == server.span_id, "what the request sent")
    topic = f"{settings.topic_prefix}payments.intents"
    assert (sending.trace_id, sending.kind, sending.name) == (CALLER_TRACE, "PRODUCER", f"send {topic}")
    assert sending.attributes["messaging.kafka.offset"] == receipt["offset"]
    assert sending.attributes["messaging.destination.partition.id"] == str(receipt["partition"])
    assert sending.attributes["ledgerline.tenant"] == "default"

    batch = linked(receiver, "posting", sending)
    assert (batch.kind, batch.name) == ("CONSUMER", f"process {topic}")
    assert batch.attributes["messaging.batch.message_count"] == 1
    assert batch.attributes["ledgerline.offsets"] == [f"{receipt['partition']}:{receipt['offset']}-{receipt['offset']}"]
    assert batch.events == ["read", "commit"]
    transaction = receiver.wait_for(lambda span: span.parent_id == batch.span_id, "the transaction")
    assert transaction.attributes["ledgerline.outcomes.posted"] == 1
    assert transaction.attributes["db.operation.batch.size"] == 1
    assert transaction.events == ["lock", "look_up", "lock", "decide", "write"]

    relayed = linked(receiver, "relay", transaction)
    assert relayed.name == f"send {settings.topic_prefix}ledger.journal"
    assert relayed.attributes["ledgerline.sequences"] == [f"{receipt['lane']}:{receipt['seq']}-{receipt['seq']}"]
    for prover in ("reconciliation", "audit"):
        proved = linked(receiver, prover, relayed)
        assert proved.name == f"process {settings.topic_prefix}ledger.journal"
        assert not proved.is_error

    # The request that its caller did not sample left no span.
    assert {span.trace_id for span in receiver.spans() if span.kind == "SERVER"} == {CALLER_TRACE}
    assert len([span for span in receiver.spans() if span.service == "ledgerline-posting"]) == 2
    assert receiver.paths == {"/v1/traces"}
    told = {name for span in receiver.spans() for name in span.attributes}
    assert told <= set(Attribute)
    everything = b"".join(receiver.raw)
    for secret in (b"the-key-of-order-1", b"users:77", b"987654", str(intent["intent_id"]).encode()):
        assert secret not in everything
    assert str(client.headers["Authorization"]).removeprefix("Bearer ").encode() not in everything


def test_without_a_collector_named_the_sdk_is_not_even_imported(settings: Settings, tmp_path: Path) -> None:
    """Without the SDK no span can be sent; with PYTHONVERBOSE, Python names each import on standard error."""
    with ServiceProcess("posting", settings, tmp_path, PYTHONVERBOSE="1") as worker:
        worker.wait_until_ready(120.0)
        imported = worker.log()
        assert "import 'streams.posting.poster'" in imported
        assert "import 'runtime.tracing'" in imported
        assert "opentelemetry.sdk" not in imported
        assert "runtime.otlp" not in imported


def test_a_collector_that_is_away_slows_nothing_and_is_told_of_once(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9", "trace_sample_ratio": 1.0})
    with ExitStack() as stack:
        processes = started(away, tmp_path, stack, OTEL_BSP_SCHEDULE_DELAY="100")
        api = ApiBench(f"http://127.0.0.1:{processes['api'].port}", str(settings.postgres_dsn.get_secret_value()))  # type: ignore[union-attr]
        client = stack.enter_context(api.client())
        for number in range(30):
            answer = post(client, f"k{number}", top_up(number, 100), Prefer="wait=20")
            assert answer.status_code == 200, answer.text
        for name in ("posting", "relay", "api"):
            process = processes[name]
            eventually(lambda told=process: told.events("spans were not exported"), f"{name} tells", 60.0)  # type: ignore[misc]
        for process in processes.values():
            warnings = process.events("spans were not exported")
            assert len(warnings) <= 1
            assert all(warning["endpoint"] == "http://127.0.0.1:9" for warning in warnings)
            assert not {
                name for name in loggers_of(process) if name.startswith(("opentelemetry", "urllib3", "requests"))
            }
            assert process.stop(10) == 0, f"{process.name} was not told, or waits for the collector"


def loggers_of(process: ServiceProcess) -> set[str]:
    """Return the loggers that wrote to a process's log, in which each line is JSON."""
    return {json.loads(line)["logger"] for line in process.log().splitlines()}
