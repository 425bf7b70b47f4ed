"""`ledgerline offsets`: each agent's offset in each lane, from Postgres (the source of truth) and from Kafka."""

from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from cli.arguments import find_user_name
from cli.context import Ledger, find_running_ledger
from cli.output import Json, say, show_json, show_rows
from db.operations import (
    AgentPosition,
    LaneProgress,
    OperationKind,
    add_operation,
    list_agent_positions,
    list_lane_progress,
    open_glance,
    open_operator,
    rewind_reconciliation,
)
from db.worker import Position, read_all_positions
from domain.errors import LedgerlineError
from domain.topics import Topics
from runtime.kafka_positions import TopicState, make_admin_client, read_committed_offsets, read_topic_state, tell_group

app = typer.Typer(help="The offsets of each lane, in Postgres and in Kafka.", no_args_is_help=True)

WORKER: Final = "worker"

_WORKER_COLUMNS = ("part", "topic", "partition", "low", "next", "high", "lag")
_COLUMNS = ("agent", "lane", "low", "first", "next", "high", "lag", "committed", "behind", "seq")


class Agent(StrEnum):
    """A service that reads a topic lane by lane and keeps its offsets in Postgres."""

    POSTING = "posting"
    RECONCILIATION = "reconciliation"
    AUDIT = "audit"


class OffsetsError(LedgerlineError):
    """An agent's offsets cannot be set as the operator wants."""


CANNOT_BE_SOUGHT: Final = {
    Agent.POSTING: (
        "Posting's offset is a fact of the ledger: the lane's sequence and hash chain are bound to it, so it cannot be"
        " sought. What was posted by mistake is reversed (`ledgerline intents reverse`); bytes that were quarantined"
        " are sent again (`ledgerline dlq retry`)."
    ),
    Agent.AUDIT: (
        "Audit's copy of the hashes is append-only, so it cannot read a lane over: `ledgerline audit verify`"
        " recomputes every chain from the beginning of the topic."
    ),
}

AgentName = Annotated[Agent, typer.Argument(help="posting, reconciliation or audit.")]
ToStore = Annotated[
    bool, typer.Option("--to-store", help="Commit the offsets of Postgres to Kafka's group, for lag tools.")
]
ToBeginning = Annotated[
    bool,
    typer.Option("--to-beginning", help="Reconciliation only: delete what was recomputed, and read everything again."),
]
Lanes = Annotated[list[int] | None, typer.Option("--lane", min=0, help="Only this lane; repeat it for more.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.callback()
def offsets() -> None:
    """Where each lane stands, in Postgres and in Kafka."""


def get_topic(agent: Agent, topics: Topics) -> str:
    """Return the topic that an agent reads."""
    return topics.intents if agent is Agent.POSTING else topics.journal


def list_lane_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return one row for each agent and each lane that its topic has, or that only Postgres still has.

    low, high: the topic's first and next offset. first, next: the lane's first and next offset to read, in Postgres;
    None if the agent has no row of the lane, and `first` is for posting only. lag = high - next; if next is None, lag =
    high - low. committed: the consumer group's offset in Kafka, for lag tools only; behind = next - committed. seq: the
    lane's next sequence number; head: posting's hash of the lane's last row.
    """
    topics = Topics(ledger.settings.topic_prefix)
    with open_glance(ledger.postgres_dsn) as connection:
        posted = {row.lane: row for row in list_lane_progress(connection)}
        stands = {(row.agent, row.lane): row for row in list_agent_positions(connection)}
    admin = make_admin_client(ledger.kafka)
    states = {topic: read_topic_state(admin, topic) for topic in (topics.intents, topics.journal)}
    rows = []
    for agent in Agent:
        state = states[get_topic(agent, topics)]
        lanes = sorted({lane for name, lane in stands if name == agent} | state.high.keys())
        committed = read_committed_offsets(admin, topics.group(agent), get_topic(agent, topics), sorted(state.high))
        for lane in lanes:
            row = _make_row(agent, lane, stands.get((agent, lane)), state, committed.get(lane))
            rows.append(row | _make_posting_members(agent, topics, posted.get(lane)))
    return rows


def _make_row(
    agent: Agent, lane: int, stands: AgentPosition | None, state: TopicState, committed: int | None
) -> dict[str, Any]:
    high = state.high.get(lane)
    at = stands.next_offset if stands is not None else state.low.get(lane)
    return {
        "agent": agent.value,
        "lane": lane,
        "kafka_topic_id": state.topic_id,
        "low": state.low.get(lane),
        "next": stands.next_offset if stands is not None else None,
        "high": high,
        "lag": None if high is None or at is None else high - at,
        "committed": committed,
        "behind": None if stands is None or committed is None else stands.next_offset - committed,
        "seq": stands.next_seq if stands is not None else 0,
    }


def _make_posting_members(agent: Agent, topics: Topics, row: LaneProgress | None) -> dict[str, Any]:
    known = row if agent is Agent.POSTING else None
    return {
        "topic": known.topic if known is not None else get_topic(agent, topics),
        "topic_id": known.topic_id if known is not None else None,
        "first": known.first_offset if known is not None else None,
        "head": known.head.hex() if known is not None else None,
    }


def list_worker_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return one row for each part of the worker and each partition that the part has met.

    low, high: the partition's first and next offset. next: the part's next offset to read, in Postgres. lag = high -
    next; what Kafka has deleted does not count. low, high and lag are None if the topic has no such partition.
    """
    with open_glance(ledger.postgres_dsn) as connection:
        positions = read_all_positions(connection)
    admin = make_admin_client(ledger.kafka)
    states = {topic: read_topic_state(admin, topic) for topic in sorted({stands.topic for stands in positions})}
    return [_make_worker_row(stands, states[stands.topic]) for stands in positions]


def _make_worker_row(stands: Position, state: TopicState) -> dict[str, Any]:
    low, high = state.low.get(stands.partition), state.high.get(stands.partition)
    return {
        "agent": WORKER,
        "part": stands.part,
        "topic": stands.topic,
        "partition": stands.partition,
        "low": low,
        "next": stands.next_offset,
        "high": high,
        "lag": None if low is None or high is None else high - max(stands.next_offset, low),
    }


@app.command()
def show(as_json: Json = False) -> None:
    """Show each agent's offset in Postgres for each lane, beside the topic's ends and the group's offsets."""
    ledger = find_running_ledger()
    rows, of_worker = list_lane_rows(ledger), list_worker_rows(ledger)
    if as_json:
        show_json([*rows, *of_worker])
        return
    show_rows("Offsets", rows, as_json=False, columns=_COLUMNS)
    if of_worker:
        show_rows("The worker's parts", of_worker, as_json=False, columns=_WORKER_COLUMNS)
    posting = [row for row in rows if row["agent"] == Agent.POSTING]
    for row in posting:
        say(f"lane {row['lane']} head {row['head'] or 'none yet'}")
    strangers = [row for row in posting if row["topic_id"] not in (None, row["kafka_topic_id"])]
    if posting:
        told = f"topic {posting[0]['topic']} ({posting[0]['kafka_topic_id']})"
        say(told)
    for row in strangers:
        say(f" was posted from the topic with id {row['topic_id']}, another one", f"[bold red]lane {row['lane']}[/]")


@app.command()
def seek(
    agent: AgentName,
    to_store: ToStore = False,
    to_beginning: ToBeginning = False,
    lane: Lanes = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Set Kafka's offsets to those in Postgres, or make reconciliation read lanes again; this is recorded.

    Neither changes anything that was posted. Reconciliation may run meanwhile: it notices, and begins again within
    seconds. A break that is found again stays the same break; one that is not found again is resolved as usual.
    """
    if to_store == to_beginning:
        raise typer.BadParameter("say --to-store or --to-beginning")
    ledger = find_running_ledger()
    if to_store:
        done = _tell_kafka(ledger, agent, lane)
        told = f"The group of {agent.value} now has the offsets of Postgres, in {len(done)} lanes."
    else:
        if agent is not Agent.RECONCILIATION:
            raise OffsetsError(CANNOT_BE_SOUGHT[agent])
        done = _rewind(ledger, lane, yes=yes)
        told = f"Reconciliation reads {len(done)} lanes again from their beginning: ledgerline offsets show"
    if as_json:
        show_json(done)
    else:
        say(told)


def _choose_offsets(agent: Agent, rows: list[AgentPosition], lanes: list[int] | None) -> dict[int, int]:
    """Return the agent's next offset by lane, for these lanes or for all; raise OffsetsError for an unknown lane."""
    found = {row.lane: row.next_offset for row in rows if row.agent == agent}
    missing = sorted(set(lanes or ()) - found.keys())
    if missing:
        raise OffsetsError(f"{agent.value.capitalize()} has met no lane {missing[0]}: see `ledgerline offsets show`.")
    return {lane: offset for lane, offset in sorted(found.items()) if lanes is None or lane in lanes}


def _tell_kafka(ledger: Ledger, agent: Agent, lanes: list[int] | None) -> list[dict[str, int]]:
    topics = Topics(ledger.settings.topic_prefix)
    admin = make_admin_client(ledger.kafka)
    with open_operator(ledger.postgres_dsn) as connection, connection.transaction():
        stands = _choose_offsets(agent, list_agent_positions(connection), lanes)
        if stands:
            detail = {"agent": agent.value, "offsets": {str(number): at for number, at in stands.items()}}
            add_operation(connection, OperationKind.OFFSETS_TOLD, find_user_name(), detail)
            tell_group(admin, topics.group(agent), get_topic(agent, topics), stands)
    return [{"lane": number, "offset": at} for number, at in stands.items()]


def _rewind(ledger: Ledger, lanes: list[int] | None, *, yes: bool) -> list[dict[str, int]]:
    topics = Topics(ledger.settings.topic_prefix)
    journal = read_topic_state(make_admin_client(ledger.kafka), topics.journal)
    with open_operator(ledger.postgres_dsn) as connection:
        stands = _choose_offsets(Agent.RECONCILIATION, list_agent_positions(connection), lanes)
        for lane in stands:
            if journal.low.get(lane) != 0:
                raise OffsetsError(
                    f"{topics.journal} no longer has the beginning of lane {lane}, from which it would be recomputed:"
                    " restore the topic first."
                )
        count = sum(stands.values())
        if stands and not yes:
            typer.confirm(f"Recompute {len(stands)} lanes with {count:,} offsets?", abort=True, err=True)
        rewound = rewind_reconciliation(connection, list(stands), find_user_name())
    return [{"lane": lane, "offset": 0} for lane in rewound]
