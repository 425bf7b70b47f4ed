"""`ledgerline topics`: compare the topics of a cluster with their description in code, and change them."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cli.context import find_kafka
from cli.output import Json, say, show_json, show_rows
from domain.topics import Topics
from producers import topic_plan
from producers.deploy import Replication, Retention
from producers.topic_plan import Described, Difference, Remedy
from runtime.kafka import Kafka
from runtime.settings import Settings

app = typer.Typer(help="Topics as code: compare and apply their configuration.", no_args_is_help=True)

AllowLoss = Annotated[
    bool, typer.Option("--allow-loss", help="Also apply changes that lose records, such as a shorter retention.")
]

_REMEDIES = {
    Remedy.MAKE: "apply makes it",
    Remedy.CHANGE: "apply changes it",
    Remedy.CHANGE_WITH_LOSS: "apply --allow-loss changes it",
    Remedy.BY_HAND: "by hand",
}


def describe_topics(settings: Settings) -> Described:
    """Return the topics as these settings describe them."""
    return Described(
        Topics(settings.topic_prefix),
        settings.lanes,
        Replication(settings.replication_factor, settings.min_insync_replicas),
        Retention(settings.intents_retention_days, settings.quarantine_retention_days, settings.breaks_retention_days),
    )


@app.command()
def diff(as_json: Json = False) -> None:
    """Show how the topics differ from what the settings describe. Exit code 1 if they do."""
    settings, kafka = find_kafka()
    found = topic_plan.find_differences(kafka, describe_topics(settings))
    if as_json:
        show_json([asdict(difference) for difference in found])
    elif found:
        _show("Topics that differ", found)
    else:
        say(f"The topics at {kafka} are as described.")
    if found:
        raise typer.Exit(1)


@app.command()
def apply(allow_loss: AllowLoss = False, as_json: Json = False) -> None:
    """Make the topics as described, as far as that is safe. Delete nothing. Exit code 1 if a difference is left."""
    settings, kafka = find_kafka()
    changed, left = topic_plan.apply(kafka, describe_topics(settings), with_loss=allow_loss)
    if as_json:
        told: dict[str, Any] = {"changed": [asdict(one) for one in changed], "left": [asdict(one) for one in left]}
        show_json(told)
    else:
        _tell(kafka, changed, left)
    if left:
        raise typer.Exit(1)


def _tell(kafka: Kafka, changed: list[Difference], left: list[Difference]) -> None:
    for difference in changed:
        was = "made" if difference.remedy is Remedy.MAKE else f"{difference.found} is now {difference.wanted}"
        say(f"{difference.topic}: {difference.property} {was}")
    if left:
        _show("Left as they are", left)
    elif not changed:
        say(f"The topics at {kafka} are as described.")


def _show(title: str, found: list[Difference]) -> None:
    rows = [
        {
            "topic": difference.topic,
            "property": difference.property,
            "wanted": difference.wanted,
            "found": difference.found or "none",
            "how": f"{_REMEDIES[difference.remedy]}. {difference.meaning}",
        }
        for difference in found
    ]
    show_rows(title, rows, as_json=False)
