"""The command line without a ledger: all commands are mounted, mistakes and outages give sentences, help is quick."""

import io
import json
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import confluent_kafka
import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli import COMMANDS, load
from cli.commands.stack import mask_password
from cli.commands.status import make_document, render
from cli.context import find_api_key, get_key_file, store_api_key
from cli.hexdump import LINE_BYTES, decode_readable, dump_hex
from cli.status import LaneStatus, ProcessStatus, StatusReport, format_age
from cli.troubles import make_sentence
from db.operations import BreakCount, Checkpoint
from domain.errors import LedgerlineError
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.command_line import run


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Return an environment without the address of a ledger; no ledger ever ran at its home."""
    return {"LEDGERLINE_HOME": str(tmp_path), "COLUMNS": "160"}


@pytest.mark.parametrize("entry", COMMANDS, ids=[entry.name for entry in COMMANDS])
def test_every_entry_loads(entry: object) -> None:
    assert load(entry).name == entry.name  # type: ignore[arg-type, attr-defined]


def test_help_lists_every_command_and_loads_none(nowhere: dict[str, str]) -> None:
    shown = run(nowhere, "--help").stdout
    for entry in COMMANDS:
        assert f" {entry.name} " in shown
    heavy = "psycopg confluent_kafka fastapi faust fastavro httpx pydantic cryptography"
    code = "import sys, cli; print(*sorted(set(sys.argv[1].split()) & sys.modules.keys()))"
    loaded = subprocess.run(
        [sys.executable, "-c", code, heavy], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == ""


def test_help_is_quick(nowhere: dict[str, str]) -> None:
    def used_seconds() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = used_seconds()
    run(nowhere, "--help")
    assert used_seconds() - before < 0.6  # processor seconds: other processes may keep the machine busy


def test_no_arguments_show_help_as_wrong_use(nowhere: dict[str, str]) -> None:
    done = run(nowhere, code=2)
    assert "Usage: ledgerline" in done.stdout + done.stderr


WRONG_USE = [
    (("nonsense",), "No such command 'nonsense'"),
    (("statsu",), "Did you mean 'status'"),
    (("status", "--frobnicate"), "No such option: --frobnicate"),
    (("service", "espresso"), "choose one of posting, relay, worker, reconciliation, audit, api"),
    (("dlq", "show", "zero", "0"), "Invalid value for LANE: 'zero' is no whole number"),
    (("up", "--instances", "posting"), "write it as posting=2"),
    (("up", "--instances", "posting=many"), "write it as posting=2"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG_USE, ids=[" ".join(case[0]) for case in WRONG_USE])
def test_wrong_use_ends_with_2(nowhere: dict[str, str], arguments: tuple[str, ...], told: str) -> None:
    assert told in run(nowhere, *arguments, code=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("dlq", "list"), ("offsets", "show"), ("schemas", "check"), ("prepare",), ("keys", "list")],
    ids=" ".join,
)
def test_without_a_ledger_one_sentence_says_what_to_do(nowhere: dict[str, str], arguments: tuple[str, ...]) -> None:
    done = run(nowhere, *arguments, code=1)
    assert done.stderr.startswith("error: No ")
    assert "ledgerline up" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_setting_that_cannot_be_used_is_named(nowhere: dict[str, str]) -> None:
    done = run(nowhere | {"LEDGERLINE_LANES": "several"}, "status", code=1)
    assert done.stderr.startswith("error: LEDGERLINE_LANES cannot be used: ")


def test_a_dsn_that_is_none_is_told_without_its_password(nowhere: dict[str, str]) -> None:
    named = {"LEDGERLINE_KAFKA_BOOTSTRAP": "127.0.0.1:1", "LEDGERLINE_REGISTRY_URL": "http://127.0.0.1:1"}
    done = run(nowhere | named | {"LEDGERLINE_POSTGRES_DSN": "pass word=s3cret"}, "dlq", "list", code=1)
    assert "LEDGERLINE_POSTGRES_DSN cannot be used" in done.stderr
    assert "s3cret" not in done.stderr


def test_up_starts_nothing_with_settings_that_contradict_each_other(nowhere: dict[str, str]) -> None:
    done = run(nowhere | {"LEDGERLINE_KAFKA_SECURITY_PROTOCOL": "SSL"}, "up", code=1)
    assert done.stderr.startswith("error: LEDGERLINE_KAFKA_SECURITY_PROTOCOL is SSL, which the embedded Kafka does not")
    assert "Ledgerline is not running" in run(nowhere, "down").stderr


def test_down_where_nothing_runs_is_done(nowhere: dict[str, str]) -> None:
    assert "Ledgerline is not running" in run(nowhere, "down").stderr
    assert json.loads(run(nowhere, "down", "--json").stdout) == {"stopped": False}


# ---------------------------------------------------------------------------------------------------- errors


def test_outages_of_libraries_are_sentences() -> None:
    kafka = confluent_kafka.KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._ALL_BROKERS_DOWN))
    cases = [
        (psycopg.OperationalError("server closed the connection"), "Postgres does not answer"),
        (psycopg.errors.UndefinedTable('relation "ledger.lane" does not exist\nLINE 1'), "run `ledgerline prepare`"),
        (psycopg.errors.InsufficientPrivilege("permission denied for table x"), "ledgerline_operator"),
        (psycopg.ProgrammingError("missing ="), "LEDGERLINE_POSTGRES_DSN cannot be used"),
        (kafka, "Kafka does not answer"),
        (httpx.ConnectError("refused"), "A service does not answer"),
    ]
    for error, told in cases:
        sentence = make_sentence(error)
        assert sentence is not None
        assert told in sentence
        assert "\n" not in sentence
    assert make_sentence(LedgerlineError("x")) == "x"
    for bug in (ValueError("x"), KeyError("x"), psycopg.errors.SyntaxError("x")):
        assert make_sentence(bug) is None


def test_a_dsn_is_shown_without_its_password() -> None:
    cases = {
        "postgresql://me:s3cret@db:5432/ledger": "postgresql://me:***@db:5432/ledger",
        "postgresql://me@db/ledger": "postgresql://me@db/ledger",
        "host=db password=s3cret": "as LEDGERLINE_POSTGRES_DSN says",
    }
    assert {dsn: mask_password(dsn) for dsn in cases} == cases


def test_the_key_is_stored_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEDGERLINE_API_KEY", raising=False)
    settings = Settings(home=tmp_path)
    assert find_api_key(settings) is None
    for key in ("llk_first", "llk_second"):
        path = store_api_key(tmp_path, key)
        assert path == get_key_file(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert find_api_key(settings) == key
    assert find_api_key(Settings(home=tmp_path, api_key="llk_named")) == "llk_named"
    assert [found.name for found in path.parent.iterdir()] == ["api-key"]


# ---------------------------------------------------------------------------------------------------- hexdump


@given(st.binary(max_size=200))
def test_a_hexdump_holds_every_byte_in_order(value: bytes) -> None:
    lines = list(dump_hex(value))
    assert len(lines) == -(-len(value) // LINE_BYTES)
    assert bytes.fromhex("".join(line[10:58] for line in lines)) == value
    assert [int(line[:8], 16) for line in lines] == list(range(0, len(value), LINE_BYTES))
    assert all(line.isprintable() for line in lines)


@given(st.binary(max_size=200))
def test_readable_text_never_moves_the_cursor(value: bytes) -> None:
    assert decode_readable(value).isprintable()


def test_readable_keeps_what_can_be_read() -> None:
    assert decode_readable(b"\x00\x01caf\xc3\xa9 \xf0\x9f\x92\xb6\x1b[31m\xff") == "..café 💶.[31m\ufffd"


# ---------------------------------------------------------------------------------------------------- status


def shown(report: StatusReport, width: int = 130) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(report))
    return out.getvalue()


def full_report() -> StatusReport:
    return StatusReport(
        phase="running",
        started_time="2026-03-01T10:00:00.000000+00:00",
        api_url="http://127.0.0.1:8080",
        processes=[
            ProcessStatus("kafka", "part", "ready", 0, 11, "port 9092", None),
            ProcessStatus("posting", "service", "waiting", 3, None, "http://127.0.0.1:9", "exit code 1"),
        ],
        lanes=[
            LaneStatus(0, 1200, 1100, 100, 1100, 1100, 0, 1000, 100, 900, 200, 1_000_000),
            LaneStatus(1, None, None, None, None, None, None, None, None, None, None, None),
        ],
        totals={"posted": 1000, "rejected": 60, "duplicate": 30, "idempotency_conflict": 5, "quarantined": 5},
        dead_letters_untried=4,
        breaks=[BreakCount("audit", "chain", "open", 2, 1_000_000)],
        checkpoint=Checkpoint(7, 1_000_000, "0123456789abcdef", b"\x01" * 32),
        attention=["2 breaks are not resolved."],
    )


def test_status_shows_everything_at_a_glance() -> None:
    text = shown(full_report())
    for expected in (
        "Ledgerline running since 2026-03-01 10:00:00 UTC",
        "http://127.0.0.1:8080",
        "waiting",
        "1,100: posted 1,000 · rejected 60 · duplicate 30 · idempotency conflict 5 · quarantined 5",
        "4 never retried",
        "2 audit chain open",
        "7 signed 1970-01-01 00:00 UTC with key 0123456789abcdef",
        "! 2 breaks are not resolved.",
    ):
        assert expected in text
    lanes = [line.split() for line in text.splitlines() if line.strip().startswith(("0 ", "1 "))]
    assert lanes[0][:7] == ["0", "1,200", "100", "1,100", "0", "100", "200"]
    assert lanes[1] == ["1", "?", "?", "?", "?", "?", "?", "never"]


def test_status_fits_eighty_columns() -> None:
    assert all(len(line) <= 80 for line in shown(full_report(), width=80).splitlines())
    assert "…" not in shown(full_report(), width=80)


def test_status_as_json_is_plain() -> None:
    found = json.loads(json.dumps(make_document(full_report())))
    assert found["checkpoint"]["root"] == "01" * 32
    assert found["lanes"][0]["audit_lag"] == 200
    assert found["breaks"] == [
        {"found_by": "audit", "kind": "chain", "state": "open", "breaks": 2, "first_opened_time": 1_000_000}
    ]


def test_ages_are_for_people() -> None:
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    second = 1_000_000
    base = int(now.timestamp()) * second
    cases = [(-5, "0 s ago"), (0, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2026-03-01 10:00 UTC")]
    for seconds, expected in cases:
        assert format_age(base - seconds * second, now) == expected
