"""`ledgerline offsets`: where each lane stands, by Postgres, which is the truth, and by Kafka."""

from typing import Any

import typer

from db.operations import LaneProgress, glance, lane_progress
from domain.topics import Topics
from ops.cli.context import Ledger, running_ledger
from ops.cli.output import Json, console, show_json, show_rows
from ops.kafka_positions import TopicState, admin_client, committed_offsets, topic_state

app = typer.Typer(help="Where each lane stands, in Postgres and in Kafka.", no_args_is_help=True)

_COLUMNS = ("lane", "low", "first", "next", "high", "unposted", "committed", "behind", "seq")


@app.callback()
def offsets() -> None:
    """Where each lane stands, in Postgres and in Kafka."""


def lane_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """One row for each lane of payments.intents, or of Postgres where the topic has lost it.

    low, high: the topic's first and next offset. first, next: the first and next offset to post, by Postgres; None
    where the lane was never posted to. unposted = high - next. committed: what the group told Kafka, for lag tools
    only; behind = next - committed. seq, head: the lane's next sequence number and the hash of its last row.
    """
    topics = Topics(ledger.settings.topic_prefix)
    with glance(ledger.postgres_dsn) as connection:
        posted = {row.lane: row for row in lane_progress(connection)}
    admin = admin_client(ledger.kafka_bootstrap)
    state = topic_state(admin, topics.intents)
    committed = committed_offsets(admin, topics.group("posting"), topics.intents, sorted(state.high))
    return [
        _row(lane, posted.get(lane), state, committed.get(lane), topics.intents)
        for lane in sorted(posted.keys() | state.high.keys())
    ]


def _row(lane: int, row: LaneProgress | None, state: TopicState, committed: int | None, topic: str) -> dict[str, Any]:
    high = state.high.get(lane)
    stands = row.next_offset if row is not None else state.low.get(lane)
    return {
        "lane": lane,
        "topic": row.topic if row is not None else topic,
        "topic_id": row.topic_id if row is not None else None,
        "kafka_topic_id": state.topic_id,
        "low": state.low.get(lane),
        "first": row.first_offset if row is not None else None,
        "next": row.next_offset if row is not None else None,
        "high": high,
        "unposted": None if high is None or stands is None else high - stands,
        "committed": committed,
        "behind": None if row is None or committed is None else row.next_offset - committed,
        "seq": row.next_seq if row is not None else 0,
        "head": row.head.hex() if row is not None else None,
    }


@app.command()
def show(as_json: Json = False) -> None:
    """Show each lane's offsets in Postgres beside the topic's and the group's, with its sequence and head."""
    rows = lane_rows(running_ledger())
    if as_json:
        show_json(rows)
        return
    show_rows("Offsets", rows, as_json=False, columns=_COLUMNS)
    for row in rows:
        console.print(f"lane {row['lane']} head {row['head'] or 'none yet'}", highlight=False, soft_wrap=True)
    strangers = [row for row in rows if row["topic_id"] not in (None, row["kafka_topic_id"])]
    if rows:
        console.print(f"topic {rows[0]['topic']} ({rows[0]['kafka_topic_id']})", highlight=False, soft_wrap=True)
    for row in strangers:
        console.print(
            f"[bold red]lane {row['lane']} was posted from the topic with id {row['topic_id']}, another one[/]",
            highlight=False,
            soft_wrap=True,
        )
