"""The API: its requests, its answers, and what requests wait for."""

from ops.grafana.frame import Page
from ops.grafana.money import TITLE, money
from ops.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    Placed,
    Query,
    Says,
    fixed_colours,
    graph,
    rising,
    stat,
)
from ops.grafana.promql import OURS, PACE, quantiles, rate

_REQUESTS = "ledgerline_api_requests_total"
_SECONDS = "ledgerline_api_request_seconds"
_WRITES = f'{OURS}, method="POST", route=~"/v1/intents.*"'
_READS = f'{OURS}, method="GET", route=~"/v1/.*"'
# Leave out the requests of orchestrators and of Prometheus: for them a 503 of /readyz is an answer, not an error.
_ASKED = f'{OURS}, route!~"/(readyz|livez|metrics)"'


def page() -> Page:
    """Return the dashboard."""
    return Page(
        name="api",
        title="Ledgerline: API",
        text="Requests, errors and durations by route; what became of intents; the connections that requests wait for.",
        rows={
            TITLE: money(),
            "Requests": [*_requests(), *_traffic()],
            "Durations": _durations(),
            "What it waits for": _waits(),
        },
    )


def _requests() -> list[Placed]:
    total = f"sum(rate({_REQUESTS}{{{_ASKED}}}[{PACE}]))"
    failed = f'(sum(rate({_REQUESTS}{{{_ASKED}, status=~"5.."}}[{PACE}])) or vector(0))'
    return [
        stat(
            "Answered",
            Query(total),
            Says("Requests a second, without probes and scrapes."),
            unit="reqps",
            width=6,
        ),
        stat(
            "Failed",
            Query(f"{failed} / ({total} > 0) or {total} * 0"),
            Says(
                "The part of the answers with a status of 500 or more. `/readyz` names what is missing.",
                alerts=("LedgerlineApiErrors",),
            ),
            unit="percentunit",
            steps=rising(0.001, 0.01),
            decimals=2,
            width=6,
        ),
        stat(
            "Posts, 95 of 100 within",
            quantiles(_SECONDS, "", levels=(0.95,), selector=_WRITES)[0],
            Says("The time within which 95 of 100 requests with intents were answered; `Prefer: wait` is in it."),
            unit="s",
            steps=rising(1, 5),
            width=6,
        ),
        stat(
            "Reads, 99 of 100 within",
            quantiles(_SECONDS, "", levels=(0.99,), selector=_READS)[0],
            Says("The time within which 99 of 100 look-ups and lists were answered.", alerts=("LedgerlineApiSlow",)),
            unit="s",
            steps=rising(0.5, 1),
            width=6,
        ),
    ]


def _traffic() -> list[Placed]:
    return [
        graph(
            "By status",
            Query(
                f"sum by (class) (label_replace(rate({_REQUESTS}{{{OURS}}}[{PACE}])"
                ', "class", "${1}xx", "status", "(.).*"))',
                "{{class}}",
            ),
            Says("Answers a second by class of status."),
            unit="reqps",
            stacked=True,
            overrides=fixed_colours({"2xx": GREEN, "3xx": BLUE, "4xx": ORANGE, "5xx": RED}),
        ),
        graph(
            "By route",
            Query(rate(f"{_REQUESTS}{{{OURS}}}", by="method, route"), "{{method}} {{route}}"),
            Says("Answers a second by route template."),
            unit="reqps",
        ),
        graph(
            "What became of intents",
            Query(rate(f"ledgerline_api_intents_total{{{OURS}}}", by="result"), "{{result}}"),
            Says(
                "Intents a second, single and in batches: accepted (Kafka has it), replayed (settled before), refused "
                "(for its shape), conflict (the key was used for another), failed (Kafka did not confirm)."
            ),
            unit="recps",
            stacked=True,
            overrides=fixed_colours(
                {"accepted": GREEN, "replayed": BLUE, "refused": ORANGE, "conflict": PURPLE, "failed": RED}
            ),
        ),
    ]


def _durations() -> list[Placed]:
    return [
        graph(
            "Posting intents",
            quantiles(_SECONDS, "within", selector=_WRITES),
            Says(
                "From a request's head to the end of its answer; `Prefer: wait` is in it, and Kafka's acknowledgement."
            ),
            unit="s",
        ),
        graph(
            "Reading",
            quantiles(_SECONDS, "within", selector=_READS),
            Says(
                "Look-ups and lists, answered from Postgres' views.",
                alerts=("LedgerlineApiSlow",),
            ),
            unit="s",
        ),
        graph(
            "95 of 100, by route",
            quantiles(_SECONDS, "{{method}} {{route}}", levels=(0.95,), by="method, route", named=False),
            Says("The time within which 95 of 100 requests of a route were answered."),
            unit="s",
        ),
    ]


def _waits() -> list[Placed]:
    of_api = f'{OURS}, service="api"'
    return [
        graph(
            "Requests at once",
            [
                Query(f"sum(ledgerline_api_requests_in_flight{{{OURS}}})", "being answered"),
                Query(f"sum(ledgerline_api_requests_waiting{{{OURS}}})", "waiting for an outcome"),
            ],
            Says("Requests that are being answered, and those among them that wait for an outcome by `Prefer: wait`."),
            unit="none",
            width=6,
        ),
        graph(
            "Connections to Postgres",
            [
                Query(f"sum by (state) (ledgerline_postgres_pool_connections{{{OURS}}})", "{{state}}"),
                Query(f"sum(ledgerline_postgres_pool_requests_waiting{{{OURS}}})", "requests waiting for one"),
            ],
            Says(
                "The API's pool. Requests that wait for a connection mean that it is too small, or Postgres too slow.",
                alerts=("LedgerlinePoolExhausted",),
            ),
            unit="none",
            width=6,
        ),
        graph(
            "Waiting for a connection",
            Query(rate(f"ledgerline_postgres_pool_wait_seconds_total{{{OURS}}}"), "seconds a second"),
            Says("Seconds that requests spent a second, together, waiting for a connection of the pool."),
            unit="none",
            flat_at_zero=True,
            width=4,
        ),
        graph(
            "Waiting for Kafka",
            Query(f"max by (client) (ledgerline_kafka_producer_broker_rtt_seconds{{{of_api}}})", "{{client}}"),
            Says("Round trip of the API's producer to its slowest broker."),
            unit="s",
            width=4,
        ),
        graph(
            "Messages not yet acknowledged",
            Query(f"sum by (client) (ledgerline_kafka_producer_queue_messages{{{of_api}}})", "{{client}}"),
            Says("Messages in the producer's queue; a 202 is answered only after Kafka has its message."),
            unit="none",
            width=4,
        ),
    ]
