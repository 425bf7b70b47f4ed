"""The pipeline: does money move, how fast, and where does it wait?"""

from typing import Final

from ops.grafana.frame import LANE, SERVICE, Page
from ops.grafana.money import TITLE, money
from ops.grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    ZERO_IS_SAFE,
    Placed,
    Query,
    Says,
    falling,
    fixed_colours,
    graph,
    heatmap,
    rising,
    stat,
    table,
)
from ops.grafana.promql import OURS, PACE, quantiles, rate
from ops.grafana.worker import worker

OUTCOME_COLOURS: Final = fixed_colours(
    {"posted": GREEN, "rejected": ORANGE, "duplicate": BLUE, "idempotency_conflict": PURPLE, "quarantined": RED}
)
OBJECTIVE_SECONDS: Final = 5
BUDGET: Final = 0.001
"""The share of the intents that may be late; ops/prometheus/rules/recording.yml counts the late ones."""

_LATENCY: Final = "ledgerline_posting_latency_seconds"


def page() -> Page:
    """Return the dashboard."""
    return Page(
        name="pipeline",
        title="Ledgerline: pipeline",
        text="From the API's accept to the journal, the relay and the provers: flow, latency, lag, batches, processes.",
        rows={
            TITLE: money(),
            "Objective: 99.9 percent of intents posted within 5 s": [*_objective(), *_latency()],
            "Flow": _flow(),
            "Waiting": _waiting(),
            "Batches": _batches(),
            "Worker": worker(),
            "Processes": _processes(),
        },
        variables=(LANE, SERVICE),
    )


def _objective() -> list[Placed]:
    late = "ledgerline_intents_late:ratio"
    return [
        stat(
            "Posted within 5 s, last hour",
            Query(f"1 - {late}1h"),
            Says(
                "The part of the intents that were committed within 5 s of the API's accept; what is stuck counts as "
                "late while it waits. No answer where nothing was asked. docs/ALERTS.md says how it is counted.",
                alerts=("LedgerlineIntentsLateBurn1h", "LedgerlineIntentsLateBurn6h"),
            ),
            unit="percentunit",
            steps=falling(1 - 14.4 * BUDGET, 1 - BUDGET),
            decimals=3,
            width=6,
        ),
        stat(
            "Budget left, 3 days",
            Query(f"1 - {late}3d / {BUDGET}"),
            Says(
                "What is left of the one in a thousand that may be late, over the last three days.",
                alerts=("LedgerlineIntentsLateBurn1d", "LedgerlineIntentsLateBurn3d"),
            ),
            unit="percentunit",
            steps=((None, RED), (0, ORANGE), (0.25, GREEN)),
            decimals=0,
            width=6,
        ),
        stat(
            "Longest wait now",
            Query(f'max(ledgerline_agent_lag_seconds{{{OURS}, agent="posting", partition=~"$lane"}})'),
            Says(
                "How long the oldest intent has been waiting that is not yet posted. 0 when none is.",
                alerts=("LedgerlineLaneStuck",),
            ),
            unit="s",
            steps=rising(2, OBJECTIVE_SECONDS),
            width=6,
        ),
        stat(
            "Quarantined, last hour",
            Query(
                f'sum(increase(ledgerline_posting_outcomes_total{{{OURS}, outcome="quarantined"}}[1h])) or vector(0)'
            ),
            Says(
                "Messages that could not be read or decided; their bytes are kept. `ledgerline dlq list` shows them.",
                alerts=("LedgerlineQuarantineRising",),
            ),
            unit="none",
            steps=((None, GREY), (0, GREEN), (1, ORANGE)),
            width=6,
            decimals=0,
        ),
        graph(
            "How fast the budget burns",
            [Query(f"{late}{window} / {BUDGET}", window) for window in ("5m", "1h", "6h", "3d")],
            Says(
                "Late intents over windows, as a multiple of what the objective allows: at 1 the budget lasts just as "
                "long as it should. 14.4 over 1 h and 5 min wakes somebody, and so does 6 over 6 h and 30 min.",
                alerts=("LedgerlineIntentsLateBurn1h", "LedgerlineIntentsLateBurn6h"),
            ),
            unit="none",
            steps=((None, GREEN), (1, ORANGE), (14.4, RED)),
        ),
    ]


def _latency() -> list[Placed]:
    return [
        heatmap(
            "From accepted to posted",
            Query(f"sum by (le) (increase({_LATENCY}_bucket{{{OURS}}}[{PACE}]))"),
            Says(
                "Each column is a moment, each row a time from the API's accept to the commit, darker where more fell."
            ),
            unit="s",
            width=8,
        ),
        graph(
            "Latency",
            [
                *quantiles(_LATENCY, "to posted"),
                *quantiles("ledgerline_reconciliation_latency_seconds", "to reconciled", levels=(0.99,)),
            ],
            Says("From the API's accept to the commit in Postgres, and to the proof by reconciliation."),
            unit="s",
            steps=((None, GREEN), (OBJECTIVE_SECONDS, RED)),
        ),
    ]


def _flow() -> list[Placed]:
    outcomes = f"ledgerline_posting_outcomes_total{{{OURS}}}"
    return [
        graph(
            "Through the pipeline",
            [
                Query(rate(f'ledgerline_api_intents_total{{{OURS}, result="accepted"}}'), "accepted by the API"),
                Query(rate(outcomes), "posted, or decided otherwise"),
                Query(rate(f"ledgerline_relay_records_total{{{OURS}}}"), "relayed"),
                Query(rate(f"ledgerline_reconciled_records_total{{{OURS}}}"), "reconciled"),
                Query(rate(f"ledgerline_audited_records_total{{{OURS}}}"), "audited"),
            ],
            Says(
                "Records a second at each station. The lines lie on one another when all is well; the first that stays "
                "below the one before it is where to look."
            ),
            unit="recps",
        ),
        graph(
            "Outcomes",
            Query(f"sum by (outcome) (rate({outcomes}[{PACE}]))", "{{outcome}}"),
            Says("Journal rows a second by outcome. docs/OUTCOMES.md tells what each means."),
            unit="recps",
            stacked=True,
            overrides=OUTCOME_COLOURS,
        ),
        graph(
            "Why rejected",
            Query(
                f'sum by (reason) (rate(ledgerline_posting_outcomes_total{{{OURS}, outcome="rejected"}}[{PACE}]))'
                ' or on () label_replace(vector(0), "reason", "none", "", "")',
                "{{reason}}",
            ),
            Says("Rejections a second by reason. A refusal of business is an outcome, not an error."),
            unit="recps",
            stacked=True,
        ),
    ]


def _waiting() -> list[Placed]:
    return [
        graph(
            "Not yet posted, by lane",
            Query(
                f'max by (partition) (ledgerline_agent_lag_seconds{{{OURS}, agent="posting", partition=~"$lane"}})',
                "lane {{partition}}",
            ),
            Says(
                "How long the oldest unposted intent of each lane has waited. A line that climbs is a stuck lane.",
                alerts=("LedgerlineLaneStuck",),
            ),
            unit="s",
            steps=((None, GREEN), (OBJECTIVE_SECONDS, RED)),
            width=6,
        ),
        graph(
            "Waiting at each agent",
            [
                Query(f'max by (agent) (ledgerline_agent_lag_seconds{{{OURS}, partition=~"$lane"}})', "{{agent}}"),
                Query(f'max(ledgerline_relay_lag_seconds{{{OURS}, lane=~"$lane"}})', "relay"),
                Query(f"max(ledgerline_outbox_lag_seconds{{{OURS}}})", "outbox"),
            ],
            Says(
                "The longest wait of any lane before each agent, and in journal and outbox before their relays.",
                alerts=("LedgerlineRelayStuck", "LedgerlineOutboxStuck", "LedgerlineProverBehind"),
            ),
            unit="s",
            width=6,
        ),
        graph(
            "Records waiting at each agent",
            [
                Query(
                    "sum by (agent) (max by (agent, partition) "
                    f'(ledgerline_agent_lag_records{{{OURS}, partition=~"$lane"}}))',
                    "{{agent}}",
                ),
                Query(f'sum(max by (lane) (ledgerline_relay_lag_records{{{OURS}, lane=~"$lane"}}))', "relay"),
            ],
            Says("Records not yet processed, over all lanes that are chosen."),
            unit="short",
            width=6,
        ),
        graph(
            "Trouble",
            [
                Query(rate(f"ledgerline_agent_retries_total{{{OURS}}}", by="agent"), "{{agent}}: retries"),
                Query(rate(f"ledgerline_agent_fences_lost_total{{{OURS}}}", by="agent"), "{{agent}}: fences lost"),
                Query(rate(f"ledgerline_relay_recoveries_total{{{OURS}}}"), "relay: recoveries"),
            ],
            Says(
                "Tries that an outage ended, batches dropped as another worker had the lane, new beginnings of the "
                "relay, each a second. A few at a rebalance or a restart are as they should be; nothing is lost."
            ),
            unit="cps",
            flat_at_zero=True,
            width=6,
        ),
    ]


def _batches() -> list[Placed]:
    stage = "ledgerline_posting_stage_seconds"
    return [
        graph(
            "Records in a batch",
            [
                Query(
                    rate(f"ledgerline_agent_batch_records_sum{{{OURS}}}", by="agent")
                    + " / ("
                    + rate(f"ledgerline_agent_batch_records_count{{{OURS}}}", by="agent")
                    + " > 0) or "
                    + rate(f"ledgerline_agent_batch_records_count{{{OURS}}}", by="agent"),
                    "{{agent}}",
                )
            ],
            Says("The mean size of a batch. Larger ones cost less for each intent; 0 where there was none."),
            unit="short",
        ),
        graph(
            "Time of a batch, 99 of 100",
            quantiles("ledgerline_agent_batch_seconds", "{{agent}}", levels=(0.99,), by="agent", named=False),
            Says("From the first read to the commit of one batch; 99 of 100 took no longer."),
            unit="s",
        ),
        graph(
            "Where posting's time goes",
            Query(rate(f"{stage}_sum{{{OURS}}}", by="stage"), "{{stage}}"),
            Says("Seconds a second that posting spends in each stage, over all workers: 1 is one worker's whole time."),
            unit="none",
            stacked=True,
        ),
    ]


def _processes() -> list[Placed]:
    chosen = f'{OURS}, service=~"$service"'
    return [
        graph(
            "Processes",
            Query(f"sum by (service) (up{{{chosen}}})", "{{service}}"),
            Says(
                "How many of each service answer Prometheus.",
                alerts=("LedgerlineServiceDown", "LedgerlineMetricsAbsent"),
            ),
            unit="none",
            width=6,
        ),
        graph(
            "Restarts",
            Query(f"sum by (service) (changes(process_start_time_seconds{{{chosen}}}[15m]))", "{{service}}"),
            Says(
                "Starts of the last quarter of an hour by service. A deployment is one each.",
                alerts=("LedgerlineServiceRestarting",),
            ),
            unit="none",
            flat_at_zero=True,
            width=6,
        ),
        graph(
            "Processor time",
            Query(rate(f"process_cpu_seconds_total{{{chosen}}}", by="service, instance"), "{{service}} {{instance}}"),
            Says("Cores that each process uses."),
            unit="none",
            width=6,
        ),
        graph(
            "Memory",
            Query(f"process_resident_memory_bytes{{{chosen}}}", "{{service}} {{instance}}"),
            Says("Resident memory of each process. It is bounded: a line that only climbs is a fault."),
            unit="bytes",
            width=6,
        ),
        table(
            "Versions",
            ("service", "version", "compiled"),
            {"processes": f"count by (service, version, compiled) (ledgerline_build_info{{{chosen}}})"},
            Says("What runs. Two versions of one service at once are a roll-out, or one that stopped half-way."),
            unit="none",
            height=6,
        ),
        stat(
            "Targets that do not answer",
            Query("count(up == 0) or vector(0)"),
            Says(
                "Services and exporters that Prometheus cannot reach: what they would say, nobody hears.",
                alerts=("LedgerlineExporterDown", "LedgerlineExporterAbsent"),
            ),
            unit="none",
            steps=ZERO_IS_SAFE,
            width=6,
            height=6,
        ),
        stat(
            "Rules that failed, last 5 minutes",
            Query('sum(increase(prometheus_rule_evaluation_failures_total{job="prometheus"}[5m]))'),
            Says("A rule that cannot be evaluated never fires.", alerts=("LedgerlineRulesFail",)),
            unit="none",
            steps=ZERO_IS_SAFE,
            width=6,
            height=6,
            decimals=0,
        ),
    ]
