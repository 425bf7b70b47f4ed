"""Webhooks: the example receivers take real deliveries, and attempts are outside calls."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import httpx
import psycopg
import pytest

from db.connections import connect
from domain.effects import Call, Effects
from domain.outside_calls import Answer, ClaimedCall, Fate, Meaning, Result
from domain.webhooks import SECOND, Message, Secrets, make_headers, parse_secret
from runtime.settings import REPOSITORY_ROOT
from streams.webhook_calls import DueDeliveries, WebhookCalls
from streams.webhooks import Capture
from tests.integration.test_webhooks import add, capture, client, get_now, inbox, list_deliveries, make_messages
from tests.webhook_bench import Inbox, deliver_due, seconds_later

__all__ = ["client", "inbox"]

EXAMPLES = REPOSITORY_ROOT / "examples" / "receive-webhooks"
RECEIVERS = [
    pytest.param([sys.executable, str(EXAMPLES / "receiver.py"), "0"], id="python"),
    pytest.param(
        ["node", str(EXAMPLES / "receiver.mjs"), "0"], id="node",
        marks=pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("command", RECEIVERS)
def test_the_example_receivers_take_real_deliveries(database: str, client: httpx.Client, command: list[str]) -> None:
    made = add(client)
    environment = {**os.environ, "WEBHOOK_SECRET": made["secret"]}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/"
            with psycopg.connect(database) as connection:
                connection.execute("UPDATE webhooks.endpoint SET url = %s", (url,))
            now = get_now()
            (message,) = make_messages(1)
            capture(database, [message], now)
            assert deliver_due(database, now)[0] == 1
            assert json.loads(process.stdout.readline()) == {
                "id": message.message_id, "type": "ledgerline.ledger.posted",
            }  # fmt: skip
            assert list_deliveries(client, made, state="delivered")
            for status, change in make_bad_requests(made["secret"], message, now):
                body, headers = change
                assert httpx.post(url, content=body, headers=headers).status_code == status, headers
        finally:
            process.terminate()


def make_bad_requests(secret: str, message: Message, now: int) -> list[tuple[int, tuple[bytes, dict[str, str]]]]:
    """Return requests with the status that a receiver answers; all but the first few are refused."""
    secrets = Secrets(parse_secret(secret))
    good = make_headers(secrets, message.message_id, message.body, now)
    rotated = make_headers(secrets.rotate(b"x" * 32, now), message.message_id, message.body, now)
    signature = good["webhook-signature"]

    def at(seconds: int) -> dict[str, str]:
        return make_headers(secrets, message.message_id, message.body, seconds_later(now, seconds))

    def signed(text: str) -> dict[str, str]:
        return good | {"webhook-signature": text}

    return [
        (204, (message.body, good)),
        (204, (message.body, rotated)),
        (204, (message.body, at(-280))),
        (204, (message.body, at(280))),
        (400, (message.body, at(-310))),
        (400, (message.body, at(310))),
        (400, (message.body + b" ", good)),
        (400, (message.body, good | {"webhook-id": "other"})),
        (400, (message.body, good | {"webhook-timestamp": str(now // SECOND + 1)})),
        (400, (message.body, good | {"webhook-timestamp": "1e9"})),
        (400, (message.body, signed(""))),
        (400, (message.body, signed(signature.removeprefix("v1,")))),
        (400, (message.body, signed(signature.replace("v1,", "v2,")))),
        (400, (message.body, signed(signature[:-4]))),
        (400, (message.body, signed("v1,!!! v1"))),
        (400, (message.body, {})),
    ]


def test_attempts_are_outside_calls(database: str, client: httpx.Client, inbox: Inbox) -> None:
    """The capture asks for the first call, the clock for the next, also after the endpoint was disabled."""
    made = add(client, inbox, database)
    calls, due, now = WebhookCalls(), DueDeliveries(), get_now()
    (asked,) = capture(database, make_messages(1), now, Capture()).calls
    with connect(database, "ledgerline_worker") as connection:
        assert due.claim(connection, now, 10) == []
        inbox.status = 503
        assert make_call(calls, connection, asked) == (Fate.GIVEN_UP, Effects())
        assert due.claim(connection, get_now(), 10) == []
        later = seconds_later(get_now(), 6)
        claimed = due.claim(connection, later, 10)
        (asked,) = due.act_all(connection, claimed, later).calls
        assert asked.data["attempts"] == 1
        assert due.claim(connection, later, 10) == []
        connection.commit()
        path = f"/v1/webhooks/{made['webhook_id']}"
        assert client.patch(path, json={"enabled": False}, headers={"If-Match": '"1"'}).status_code == 200
        assert make_call(calls, connection, asked) == (Fate.GIVEN_UP, Effects())
        connection.commit()
        assert client.patch(path, json={"enabled": True}, headers={"If-Match": '"2"'}).status_code == 200
        later = seconds_later(later, 601)
        (again,) = due.act_all(connection, due.claim(connection, later, 10), later).calls
        assert again.key != asked.key
        inbox.status = 204
        assert make_call(calls, connection, again) == (Fate.DONE, Effects())
        connection.commit()
    (delivery,) = list_deliveries(client, made)
    assert (delivery["state"], delivery["attempts"], len(inbox.received)) == ("delivered", 2, 2)


def make_call(handler: WebhookCalls, connection: Any, asked: Call) -> tuple[Fate, Effects]:
    """Do what the outside calls do for one call: prepare, send, judge and settle."""
    call = ClaimedCall(1, asked.tenant, asked.kind, asked.key, asked.destination, asked.data, 1, get_now())
    (request,) = handler.prepare(connection, [call])
    if request is None:
        result = Result(call, Fate.GIVEN_UP, None, "", None, is_wanted=False)
    else:
        found = httpx.post(request.url, content=request.body, headers=dict(request.headers))
        answer = Answer(found.status_code, found.content)
        fate = Fate.DONE if handler.judge(call, answer) is Meaning.DONE else Fate.GIVEN_UP
        result = Result(call, fate, answer, "", None)
    return result.fate, handler.settle(connection, [result])
