"""`python -m tests.several_topics_agent MISSING`: an agent that keeps what it read of several topics in Postgres.

It reads the topics of two event families and the topic MISSING, and wants only records with the header `wanted`.
"""

import sys
from collections.abc import Iterable
from functools import partial
from typing import Final

import psycopg

from cli.commands.services import make_agent_options
from cli.context import find_running_ledger
from cli.observed import observe
from domain.topics import Topics
from streams.away import find_away
from streams.fenced import BatchHandler, FenceLost, PartitionBatch, run_agent

NAME: Final = "several"
FAMILIES: Final = ("user", "group")
TABLES: Final = """
CREATE TABLE public.stand (topic text, place int, next_offset bigint NOT NULL, PRIMARY KEY (topic, place));
CREATE TABLE public.seen (
    topic text, place int, message_offset bigint, value bytea, PRIMARY KEY (topic, place, message_offset)
);
"""


class Keeper(BatchHandler):
    """Keeps each record once, beside the positions, in one transaction."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)

    def positions(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the positions, which begin at 0."""
        numbers = list(partitions)
        self._connection.execute(
            "INSERT INTO stand SELECT %s, unnest(%s::int[]), 0 ON CONFLICT DO NOTHING", (topic, numbers)
        )
        return dict(
            self._connection.execute(
                "SELECT place, next_offset FROM stand WHERE topic = %s AND place = ANY (%s)", (topic, numbers)
            ).fetchall()
        )

    def handle(self, batch: list[PartitionBatch]) -> None:
        """Keep the batch; raise FenceLost if a position moved."""
        with self._connection.transaction():
            for part in batch:
                moved = self._connection.execute(
                    "UPDATE stand SET next_offset = %s WHERE topic = %s AND place = %s AND next_offset = %s",
                    (part.end_offset, part.topic, part.partition, part.expected_offset),
                )
                if moved.rowcount != 1:
                    raise FenceLost(f"{part.topic} {part.partition} is not at {part.expected_offset}")
                for message in part.messages:
                    self._connection.execute(
                        "INSERT INTO seen VALUES (%s, %s, %s, %s)",
                        (part.topic, part.partition, message.offset, message.value),
                    )

    def idle(self) -> None:
        """Do nothing."""


def main() -> None:
    """Run the agent."""
    ledger = find_running_ledger()
    topics = Topics(ledger.settings.topic_prefix)
    options = make_agent_options(
        NAME,
        ledger,
        *(topics.name_events(family) for family in FAMILIES),
        *sys.argv[1:],
        read_committed=True,
        wants=lambda headers: any(name == "wanted" for name, _ in headers),
    )
    with observe(NAME, ledger):
        run_agent(
            Keeper(ledger.postgres_dsn),
            options,
            partial(find_away, ledger.kafka, ledger.postgres_dsn, "ledgerline_posting", ledger.registry),
        )


if __name__ == "__main__":
    main()
