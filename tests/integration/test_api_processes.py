"""The API as separate processes: two on one ledger, shutdown by a signal, and the command line against one."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import orjson
import pytest

from runtime.settings import REPOSITORY_ROOT, Settings
from tests.api_bench import NO_AUTHORITIES, ApiBench, await_ready, leg, post, top_up
from tests.command_line import run as run_command
from tests.posting_bench import PostingBench

ATTEMPTS = 30


def environment(settings: Settings, **changes: str) -> dict[str, str]:
    """Return the environment variables of a process with these settings."""
    return {
        **os.environ,
        "LEDGERLINE_HOME": str(settings.home),
        "LEDGERLINE_KAFKA_BOOTSTRAP": str(settings.kafka_bootstrap),
        "LEDGERLINE_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),  # type: ignore[union-attr]
        "LEDGERLINE_REGISTRY_URL": str(settings.registry_url),
        "LEDGERLINE_TOPIC_PREFIX": settings.topic_prefix,
        **changes,
    }


@contextmanager
def api_process(settings: Settings) -> Iterator[tuple[ApiBench, "subprocess.Popen[bytes]"]]:
    """Run `ledgerline service api` on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "service", "api"],
        cwd=REPOSITORY_ROOT,
        env=environment(settings, LEDGERLINE_API_PORT=str(port)),
        stderr=subprocess.PIPE,
    )
    bench = ApiBench(f"http://127.0.0.1:{port}", settings.postgres_dsn.get_secret_value())  # type: ignore[union-attr]
    try:
        await_listening(bench)
        await_ready(bench)
        yield bench, process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def await_listening(bench: ApiBench) -> None:
    """Wait until the process answers at all; raise AssertionError if it does not."""
    pause = threading.Event()
    for _ in range(200):
        try:
            httpx.get(f"{bench.url}/livez", verify=NO_AUTHORITIES)
        except httpx.ConnectError:
            pause.wait(0.1)
        else:
            return
    raise AssertionError("the API process does not listen")


def test_one_key_sent_at_once_to_two_processes_is_posted_once(settings: Settings, bench: PostingBench) -> None:
    with ExitStack() as stack:
        first, _ = stack.enter_context(api_process(settings))
        second, _ = stack.enter_context(api_process(settings))
        key = first.new_key()
        clients = [stack.enter_context(api.client(key)) for api in (first, second)]
        threads = stack.enter_context(ThreadPoolExecutor(8))
        sent = [
            (number, threads.submit(post, clients[process], f"k{number}", top_up(number, 100 + number)))
            for number in range(ATTEMPTS)
            for process in (0, 1)
        ]
        ids: dict[int, set[str]] = {}
        for number, answer in sent:
            assert answer.result().status_code == 202
            ids.setdefault(number, set()).add(answer.result().json()["intent_id"])
        assert [len(found) for found in ids.values()] == [1] * ATTEMPTS
        fates = bench.post()
        assert (fates.count("posted"), fates.count("duplicate")) == (ATTEMPTS, ATTEMPTS)
        assert bench.balance("external:bank") == sum(100 + number for number in range(ATTEMPTS))
        replays = [post(client, "k3", top_up(3, 103)) for client in clients]
        assert [answer.status_code for answer in replays] == [200, 200]
        assert replays[0].json() == replays[1].json()


def test_a_process_that_is_told_to_stop_answers_those_who_wait(settings: Settings, bench: PostingBench) -> None:
    answers: list[httpx.Response] = []
    with api_process(settings) as (api, process), api.client() as client:
        waiting = threading.Thread(target=lambda: answers.append(post(client, "k", top_up(1, 1), Prefer="wait=25")))
        waiting.start()
        pause = threading.Event()
        for _ in range(100):
            if bench.fetch():
                break
            pause.wait(0.1)
        process.send_signal(signal.SIGTERM)
        waiting.join(15)
        assert [answer.status_code for answer in answers] == [202]
        _, log = process.communicate(timeout=20)
    assert b"Traceback" not in log
    assert not re.search(rb"llk_[0-9a-f]{16}_", log)
    assert bench.post() == ["posted"]


@pytest.fixture
def ledgerline(settings: Settings) -> Iterator[Any]:
    """Yield a function that runs a command against a running API and returns its JSON, or its stderr if it fails."""
    with api_process(settings) as (api, _):
        given = environment(settings, LEDGERLINE_API_URL=api.url, LEDGERLINE_API_KEY=api.new_key())

        def run(*arguments: str, fails: int = 0, text: str = "") -> Any:
            done = run_command(given, *arguments, *(() if fails else ("--json",)), code=fails, given=text)
            return " ".join(done.stderr.split()) if fails else orjson.loads(done.stdout)

        yield run


def test_the_command_line_keeps_the_books_and_posts(ledgerline: Any, bench: PostingBench) -> None:
    assert ledgerline("tenants", "add", "shop")["added"] is True
    assert ledgerline("tenants", "add", "shop")["added"] is False
    assert [row["tenant"] for row in ledgerline("tenants", "list")] == ["default", "shop"]
    assert ledgerline("units", "add", "MILES", "--exponent", "0")["added"] is True
    assert [row["code"] for row in ledgerline("units", "list")] == ["MILES"]
    assert "at most 9.223372036854775807 ETH" in ledgerline("units", "add", "ETH", "--exponent", "18", fails=1)
    assert "10 does not fit" in ledgerline("units", "add", "ETH", "--exponent", "18", "--largest", "10", fails=1)
    assert ledgerline("units", "add", "ETH", "--exponent", "18", "--largest", "5")["added"] is True
    assert ledgerline("units", "add", "ETH", "--exponent", "18")["added"] is False
    assert "no minor unit" in ledgerline("units", "add", "XAU", fails=1)
    assert "for good" in ledgerline("units", "add", "MILES", "--exponent", "2", fails=1)
    ledgerline("chart", "set", "gifts:*", "liability", "--floor-minor", "0", "--currency", "MILES")
    assert "gifts:*" in [row["pattern"] for row in ledgerline("chart", "list")]
    body = {
        "type": "transfer",
        "legs": [leg("external:air", "debit", 5, "MILES"), leg("gifts:1", "credit", 5, "MILES")],
    }
    given = ledgerline("intents", "post", "--file", "-", "--key", "m", "--wait", "0", text=orjson.dumps(body).decode())
    options = ("--debit", "external:bank", "--credit", "users:1:wallet", "--key", "e", "--wait", "0")
    ledgerline("intents", "post", *options, "--amount", "12.50")
    assert "EUR has at most 2" in ledgerline("intents", "post", *options, "--amount", "1.234", fails=1)
    assert bench.post() == ["posted", "posted"]
    assert ledgerline("intents", "show", given["intent_id"])["status"] == "posted"
    assert ledgerline("balance", "users:1:wallet")[0]["balance"] == "12.50"
    assert [row["balance"] for row in ledgerline("balance", "--prefix", "gifts:")] == ["5"]
    assert len(ledgerline("accounts", "list")) == 4
    assert [row["amount"] for row in ledgerline("accounts", "entries", "gifts:1")] == ["5"]
    assert [row["outcome"] for row in ledgerline("journal", "list", "--outcome", "posted")] == ["posted", "posted"]
    ledgerline("chart", "remove", "gifts:*")
    assert "no line" in ledgerline("chart", "remove", "gifts:*", fails=1)
    assert "not open" in ledgerline("balance", "users:2:wallet", fails=1)


def test_the_command_line_makes_and_revokes_keys(ledgerline: Any) -> None:
    made = ledgerline("keys", "add", "checkout", "--scope", "intents:write", "--requests-per-minute", "60")
    assert made["key"].startswith(f"llk_{made['key_id']}_")
    rows = {row["key_id"]: row for row in ledgerline("keys", "list")}
    assert rows[made["key_id"]]["scopes"] == "intents:write"
    assert made["key"].split("_", 2)[2] not in str(rows)
    ledgerline("keys", "revoke", made["key_id"])
    assert {row["key_id"]: row for row in ledgerline("keys", "list")}[made["key_id"]]["revoked_time"]
    assert "no key" in ledgerline("keys", "revoke", "0000", fails=1)
    scope = ("--scope", "intents:write")
    assert "no tenant" in ledgerline("keys", "add", "x", *scope, "--tenant", "nobody", fails=1)
    assert "Name the key's scopes" in ledgerline("keys", "add", "x", fails=1)
    assert "x" not in {row["name"] for row in ledgerline("keys", "list")}
