"""The command line as people and scripts really use it: odd arguments, odd outputs, odd terminals.

Every failure gives one sentence on standard error and the right exit code, never a traceback.
"""

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.output import show_rows
from runtime.release import VERSION
from runtime.settings import REPOSITORY_ROOT
from tests.command_line import Done, call, told_in_one_sentence

INTENT = "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2"
POST = ("intents", "post", "--debit", "external:bank", "--credit", "users:1:wallet")

pytestmark = pytest.mark.usefixtures("no_ledger")


# ------------------------------------------------------------------------------------------------ outputs


def test_the_version_is_told() -> None:
    assert call("--version") == Done(0, f"ledgerline {VERSION}\n", "")


ANSWERING = [("--version",), ("--help",), ("down", "--json"), ("config", "show"), ("config", "show", "--json")]


@pytest.mark.parametrize("arguments", ANSWERING, ids=" ".join)
def test_a_full_disk_is_one_sentence(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        sentence = told_in_one_sentence(call(*arguments, out=full), 1)
    assert sentence == "error: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("arguments", ANSWERING, ids=" ".join)
def test_a_reader_that_has_enough_ends_the_command_silently(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = call(*arguments, out=pipe)
    assert (done.code, done.told) == (1, "")


SHELL = [
    ("--version >&-", 1, "error: Standard output is closed: redirect it to a file or to /dev/null.\n"),
    ("--version >/dev/full", 1, "error: The output cannot be written: No space left on device.\n"),
    ("config show >/dev/full 2>/dev/full", 1, ""),
    ("nonsense 2>&-", 2, ""),
    ("intents post --file - <&-", 1, "error: Standard input is closed: give a file.\n"),
]


def test_closed_and_full_streams_of_a_process(tmp_path: Path) -> None:
    """These cases need processes of their own. All start together, because one takes a second to start."""
    variables = {**os.environ, "LEDGERLINE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen(
            ["/bin/sh", "-c", f'"$0" -m cli {line}', sys.executable],
            cwd=REPOSITORY_ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for line, _, _ in SHELL
    ]  # fmt: skip
    found = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert found == [(told, code) for _, code, told in SHELL]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_is_shown_what_it_can(encoding: str, tmp_path: Path) -> None:
    missing = tmp_path / "naïve → 💶.json"
    sentence = told_in_one_sentence(call("intents", "post", "--file", str(missing), encoding=encoding), 1)
    assert r" \u2192 \U0001f4b6.json cannot be read: No such file or directory." in sentence
    done = call("config", "check", "--offline", encoding=encoding)
    assert (done.code, done.told) == (0, "")
    assert done.out == "+ Nothing in the settings contradicts itself.\n"


def test_a_piped_table_has_a_line_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [{"intent_id": INTENT, "account": "users:1:" + "x" * 200, "detail": "words " * 60}] * 3
    show_rows("Rows", rows, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum(INTENT in line and "x" * 200 in line and "words " * 59 in line for line in lines) == 3
    assert len(lines) == 3 + 5


def on_a_terminal(width: int, rows: list[dict[str, Any]]) -> str:
    """Return what a terminal of this width shows."""
    ours, theirs = pty.openpty()
    code = (
        "import sys, json; from cli.output import show_rows;show_rows('Rows', json.loads(sys.argv[1]), as_json=False)"
    )
    shown = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(rows)],
        cwd=REPOSITORY_ROOT, stdout=theirs, env={**os.environ, "COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(theirs)
    text = b""
    try:
        while block := os.read(ours, 65536):
            text += block
    except OSError:
        pass  # Linux raises OSError once the other end of the terminal is closed
    finally:
        os.close(ours)
    assert shown.wait(timeout=60) == 0
    return text.decode()


def test_a_terminal_breaks_between_words_and_never_within_an_id() -> None:
    rows = [{"lane": 1, "intent_id": INTENT, "detail": "a refusal of many words " * 4, "reference": "two words"}] * 2
    for width in (200, 100, 80, 60, 30):
        text = on_a_terminal(width, rows)
        assert text.count(INTENT) == 2, (width, text)
        assert "refusal" in text
        assert ("┃" in text) == (width >= 80)
    assert "1 of 2" in on_a_terminal(40, rows)


# ------------------------------------------------------------------------------------------------ the API


class _Answers(BaseHTTPRequestHandler):
    """An API that keeps the idempotency keys of requests and gives one answer."""

    answer: tuple[int, dict[str, Any]] = (200, {})
    keys: list[bytes] = []  # noqa: RUF012 - on the class, so that the test can read it

    def do_POST(self) -> None:
        """Keep the request's idempotency key and give the answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.append(self.headers["Idempotency-Key"].encode("latin-1"))
        self.do_GET()

    def do_GET(self) -> None:
        """Give the answer."""
        status, document = self.answer
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Print no access log."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Answers]]:
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(_Answers, "keys", [])
    for name, value in {
        "KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/nothing",
        "REGISTRY_URL": "http://127.0.0.1:1",
        "API_URL": f"http://127.0.0.1:{server.server_port}",
        "API_KEY": "llk_test",
    }.items():
        monkeypatch.setenv(f"LEDGERLINE_{name}", value)
    yield _Answers
    server.shutdown()
    thread.join()
    server.server_close()


def view(**members: Any) -> dict[str, Any]:
    return {"intent_id": INTENT, "status": "posted", "receipt": {"partition": 0, "offset": 1}, **members}


def test_a_key_may_be_any_text(api: type[_Answers]) -> None:
    api.answer = (200, view())
    assert call(*POST, "--amount", "1", "--key", "café 日本").code == 0
    assert api.keys == ["café 日本".encode()]


def test_what_came_from_outside_never_reaches_the_terminal_raw(api: type[_Answers]) -> None:
    reference = "\x1b[2J\x9b1A paid\nstatus posted \u202eesrever"
    api.answer = (200, view(status="rejected", reference=reference, detail="[red]no[/red]"))
    done = call("intents", "show", INTENT)
    assert r"\x1b[2J\x9b1A paid\nstatus posted \u202eesrever" in done.out
    assert "[red]no[/red]" in done.out
    as_json = call("intents", "show", INTENT, "--json").out
    assert json.loads(as_json)["reference"] == reference
    assert not {"\x1b", "\x9b", "\u202e"} & set(done.out + as_json)


PROBLEM = {"type": "t", "title": "The form is wrong", "status": 422, "detail": "2 parts are amiss."}
PROBLEMS = [
    (PROBLEM, "The form is wrong: 2 parts are amiss."),
    (PROBLEM | {"errors": []}, "The form is wrong: 2 parts are amiss."),
    (
        PROBLEM
        | {"errors": [{"pointer": "/legs/0", "detail": "A leg"}, {"parameter": "limit", "detail": "Too large."}]},
        "The form is wrong: /legs/0: A leg. limit: Too large.",
    ),
    ({"title": "\x1b[2J", "detail": "x"}, r"\x1b[2J: x"),
    (["no problem"], "The API answered 422, without saying why."),
]


@pytest.mark.parametrize(("document", "told"), PROBLEMS, ids=range(len(PROBLEMS)))
def test_a_problem_is_told_with_the_parts_that_are_amiss(api: type[_Answers], document: Any, told: str) -> None:
    api.answer = (422, document)
    assert told_in_one_sentence(call(*POST, "--amount", "1"), 1) == f"error: {told}\n"


ADDRESSES = [
    ("LEDGERLINE_API_URL", "ftp://nowhere", "LEDGERLINE_API_URL cannot be used: ftp://nowhere is no address"),
    ("LEDGERLINE_API_URL", "nowhere:8080", "LEDGERLINE_API_URL cannot be used"),
    ("LEDGERLINE_API_URL", "http://127.0.0.1:1", "The API at http://127.0.0.1:1 does not answer"),
    ("LEDGERLINE_API_KEY", "llk_x\n", "LEDGERLINE_API_KEY is no API key"),
    ("LEDGERLINE_API_KEY", "clé", "LEDGERLINE_API_KEY is no API key"),
    ("LEDGERLINE_API_KEY", "", "No API key is known"),
]


@pytest.mark.parametrize(("name", "value", "told"), ADDRESSES, ids=[ascii(case[1]) for case in ADDRESSES])
def test_a_wrong_setting_of_the_api_is_named(
    api: type[_Answers], monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    assert told in told_in_one_sentence(call("balance", "users:1:wallet"), 1)


FILES = [
    (b'\xef\xbb\xbf{"type": "transfer"}', 0, ""),
    ('{"type": "transfer"}'.encode("utf-16"), 1, "is written in UTF-16: save it as UTF-8."),
    (b'{"type": "caf\xe9"}', 1, "is not JSON: "),
    (b"", 1, "is not JSON: "),
]


@pytest.mark.parametrize(("content", "code", "told"), FILES, ids=["mark", "utf-16", "latin-1", "empty"])
def test_a_file_of_another_encoding_is_named(
    api: type[_Answers], tmp_path: Path, content: bytes, code: int, told: str
) -> None:
    api.answer = (200, view())
    file = tmp_path / "intent.json"
    file.write_bytes(content)
    done = call("intents", "post", "--file", str(file))
    assert done.code == code
    assert told in done.told
    assert "Traceback" not in done.told


# ------------------------------------------------------------------------------------------------ endless commands


def test_watching_ends_with_its_reader(api: type[_Answers], tmp_path: Path) -> None:
    variables = {**os.environ, "LEDGERLINE_HOME": str(tmp_path)}
    line = '"$0" -m cli status --watch --interval 3600 2>&1 | head -3'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable], cwd=REPOSITORY_ROOT, env=variables, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 3
    assert "Traceback" not in done.stdout


def test_a_home_that_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("LEDGERLINE_HOME", str(file))
    for arguments in (("status",), ("balance",), ("down",)):
        assert str(file) in told_in_one_sentence(call(*arguments), 1)


def test_a_user_without_a_name_is_told_by_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.arguments import find_user_name

    monkeypatch.setattr("getpass.getuser", _raise_key_error)
    assert find_user_name() == f"uid {os.getuid()}"


def _raise_key_error() -> str:
    raise KeyError("getpwuid(): uid not found: 1000")
