"""`ledgerline webhooks`: endpoints that get events by HTTP, their deliveries, and replays, through the API."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Final

import httpx
import typer

from cli.api_client import get_answer, list_items, open_api_client
from cli.output import Json, say, show_json, show_rows

app = typer.Typer(help="Endpoints that get events by HTTP, and their deliveries.", no_args_is_help=True)

WebhookId = Annotated[uuid.UUID, typer.Argument(help="The webhook's id, as `list` shows it.")]
DeliveryId = Annotated[uuid.UUID, typer.Argument(help="The delivery's id, as `deliveries` shows it.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most rows to show.")]
_COLUMNS: Final = ("webhook_id", "url", "filters", "accounts", "ordered", "enabled", "disabled_because")
_DELIVERY_COLUMNS: Final = ("delivery_id", "type", "state", "attempts", "last_status", "last_error", "created_time")


def _make_key() -> dict[str, str]:
    return {"Idempotency-Key": f"cli-{uuid.uuid4()}"}


def _make_match(client: httpx.Client, path: str) -> dict[str, str]:
    """Return the header that makes a change fail if somebody else changes the endpoint meanwhile."""
    found = client.get(path)
    get_answer(found)
    return {"If-Match": found.headers["etag"]}


def _show(view: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(view)
        return
    rows = [{"": name.replace("_", " "), "value": value} for name, value in view.items() if value not in (None, "", [])]
    show_rows("Webhook", rows, as_json=False)
    if view.get("secret"):
        say("Keep the secret now: it is not shown again.")


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where to deliver, such as https://hooks.example.com/in.")],
    filters: Annotated[
        list[str], typer.Option("--filter", help="A type such as ledger.posted, schedule.* or *; repeat it for more.")
    ],
    account: Annotated[
        list[str] | None, typer.Option(help="Only ledger records at such an account, such as users:42:*.")
    ] = None,
    description: Annotated[str, typer.Option(help="A text for people.")] = "",
    ordered: Annotated[bool, typer.Option("--ordered", help="Deliver each lane and aggregate in order.")] = False,
    as_json: Json = False,
) -> None:
    """Add an endpoint. Its secret is shown only now."""
    body = {
        "url": url, "filters": filters, "accounts": account or [], "description": description, "ordered": ordered,
    }  # fmt: skip
    with open_api_client() as client:
        view = get_answer(client.post("/v1/webhooks", json=body, headers=_make_key()))
    _show(view, as_json=as_json)


@app.command("list")
def list_all(limit: Limit = 100, as_json: Json = False) -> None:
    """List the endpoints of the key's tenant."""
    with open_api_client() as client:
        rows = list_items(client, "/v1/webhooks", {}, limit)
    show_rows("Webhooks", rows, as_json=as_json, columns=_COLUMNS)


@app.command()
def show(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Show one endpoint."""
    with open_api_client() as client:
        view = get_answer(client.get(f"/v1/webhooks/{webhook_id}"))
    _show(view, as_json=as_json)


def _change(webhook_id: uuid.UUID, body: Mapping[str, Any], *, as_json: bool) -> None:
    path = f"/v1/webhooks/{webhook_id}"
    with open_api_client() as client:
        view = get_answer(client.patch(path, json=body, headers=_make_match(client, path)))
    _show(view, as_json=as_json)


@app.command()
def enable(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Deliver again, first what waits."""
    _change(webhook_id, {"enabled": True}, as_json=as_json)


@app.command()
def disable(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Deliver nothing more, and capture nothing, until it is enabled."""
    _change(webhook_id, {"enabled": False}, as_json=as_json)


@app.command()
def rotate(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Make a new secret; the one before signs too for a day."""
    path = f"/v1/webhooks/{webhook_id}"
    with open_api_client() as client:
        headers = _make_key() | _make_match(client, path)
        view = get_answer(client.post(f"{path}/secret", headers=headers))
    _show(view, as_json=as_json)


@app.command()
def delete(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Delete an endpoint with its deliveries."""
    path = f"/v1/webhooks/{webhook_id}"
    with open_api_client() as client:
        answer = client.delete(path, headers=_make_match(client, path))
        if not answer.is_success:
            get_answer(answer)
    if as_json:
        show_json({"webhook_id": str(webhook_id), "deleted": True})
    else:
        say(f"Webhook {webhook_id} is deleted.")


@app.command()
def deliveries(
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only held, waiting, delivered or failed ones.")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List deliveries, the latest first."""
    with open_api_client() as client:
        rows = list_items(client, f"/v1/webhooks/{webhook_id}/deliveries", {"state": state}, limit)
    show_rows("Deliveries", rows, as_json=as_json, columns=_DELIVERY_COLUMNS)


@app.command()
def delivery(webhook_id: WebhookId, delivery_id: DeliveryId, as_json: Json = False) -> None:
    """Show one delivery with its attempts."""
    with open_api_client() as client:
        view = get_answer(client.get(f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}"))
    if as_json:
        show_json(view)
        return
    show_rows("Delivery", [view], as_json=False, columns=_DELIVERY_COLUMNS)
    show_rows("Attempts", view["made"], as_json=False)


@app.command("test")
def send_test(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Send a test event."""
    with open_api_client() as client:
        view = get_answer(client.post(f"/v1/webhooks/{webhook_id}/test", headers=_make_key()))
    show_rows("Delivery", [view], as_json=as_json, columns=_DELIVERY_COLUMNS)


@app.command()
def replay(
    webhook_id: WebhookId,
    delivery_id: Annotated[uuid.UUID | None, typer.Option("--delivery", help="Only this delivery.")] = None,
    since: Annotated[str | None, typer.Option(help="From this time on, RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option(help="To before this time, RFC 3339.")] = None,
    state: Annotated[str | None, typer.Option(help="Only deliveries in this state, such as failed.")] = None,
    as_json: Json = False,
) -> None:
    """Send one delivery again, or those of a period."""
    path = f"/v1/webhooks/{webhook_id}"
    if (delivery_id is None) == (since is None or until is None):
        raise typer.BadParameter("give --delivery, or both --since and --until.")
    with open_api_client() as client:
        if delivery_id is not None:
            get_answer(client.post(f"{path}/deliveries/{delivery_id}/replay", headers=_make_key()))
            number = 1
        else:
            body = {"since": since, "until": until, "state": state}
            number = get_answer(client.post(f"{path}/replay", json=body, headers=_make_key()))["deliveries"]
    if as_json:
        show_json({"deliveries": number})
    else:
        say(f"{number} deliveries go out again.")
