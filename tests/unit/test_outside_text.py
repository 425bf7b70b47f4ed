"""Text from outside shows no characters that a terminal, a log or a page would obey, by the same rule everywhere."""

import json
import logging
import shutil
import subprocess

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cli.output import complain, say, show_error, show_json, show_rows
from runtime.outside_text import escape_in_json, make_printable
from runtime.settings import REPOSITORY_ROOT
from tests.log_capture import captured_logs

CASES = [
    ("users:42:wallet", "users:42:wallet"),
    ("Café 日本 💶 ÅÄÖ", "Café 日本 💶 ÅÄÖ"),
    ("a\u00a0b\u202fc", "a\u00a0b\u202fc"),
    ("क्\u200dष می\u200cخواهم 👩\u200d💻", "क्\u200dष می\u200cخواهم 👩\u200d💻"),
    ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
    ("\x9b2J \x85", r"\x9b2J \x85"),
    ("\x07\x08\x7f\x00", r"\x07\x08\x7f\x00"),
    ("one\ntwo\r\tthree", r"one\ntwo\r\tthree"),
    ("\u202egnp.exe \u2066x\u2069 \u200f \u061c", r"\u202egnp.exe \u2066x\u2069 \u200f \u061c"),
    ("\u2028\u2029\ufeff\u00ad", r"\u2028\u2029\ufeff\xad"),
    ("\U000e0041", r"\U000e0041"),
    ("caf\udce9", r"caf\udce9"),
]
HOSTILE = "".join(given for given, shown in CASES if given != shown)
OBEYED = {sign for sign in HOSTILE if make_printable(sign) != sign}


@pytest.mark.parametrize(("text", "shown"), CASES, ids=[ascii(case[0]) for case in CASES])
def test_what_would_be_obeyed_is_shown_by_its_number(text: str, shown: str) -> None:
    assert make_printable(text) == shown


def test_line_ends_may_be_kept() -> None:
    assert make_printable("one\ntwo\x1b", kept="\n") == "one\ntwo\\x1b"


@given(st.text())
def test_nothing_that_is_shown_is_changed_again(text: str) -> None:
    assert make_printable(make_printable(text)) == make_printable(text)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_json_means_what_it_meant(text: str) -> None:
    document = escape_in_json(json.dumps({"text": text}, ensure_ascii=False, indent=2))
    assert json.loads(document) == {"text": text}
    assert make_printable(document, kept="\n") == document


def test_every_way_out_of_the_command_line_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    complain(HOSTILE, "[bold]lead[/] ")
    show_error(HOSTILE)
    show_rows(HOSTILE, [{"reference": HOSTILE, HOSTILE: 1}], as_json=False)
    show_json({"reference": HOSTILE})
    out, told = capsys.readouterr()
    assert not OBEYED & set(out + told) - {"\n"}
    assert len(told.splitlines()) == 2


def test_commands_show_by_the_two_consoles_alone() -> None:
    past = [
        f"{path.name}: {way}"
        for path in sorted(REPOSITORY_ROOT.glob("cli/*.py")) + sorted(REPOSITORY_ROOT.glob("cli/commands/*.py"))
        for way in ("rich.markup", "rich.console import Console", "typer.echo", "sys.stdout.write", "sys.stderr.write")
        if path.name != "output.py" and way in path.read_text()
    ]
    assert past == []


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_shows_nothing_that_is_obeyed(log_format: str) -> None:
    with captured_logs(log_format=log_format) as stream:
        structlog.get_logger("ours").info("told", reference=HOSTILE, nested={"legs": [HOSTILE]})
        logging.getLogger("theirs").warning("refused %s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            structlog.get_logger("ours").exception("failed")
    text = stream.getvalue()
    colours = {"\x1b"} if log_format == "console" else set()
    assert not OBEYED & set(text) - {"\n"} - colours
    assert "\x1b[2J" not in text


def test_the_pages_have_the_same_rule() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    script = (
        "import { readFileSync } from 'node:fs';"
        "const module = 'data:text/javascript,' + encodeURIComponent(readFileSync('dom.js', 'utf-8'));"
        "const { printable } = await import(module);"
        "const cases = JSON.parse(process.argv[1]);"
        "process.stdout.write(JSON.stringify(cases.map(printable)));"
    )
    given = [case[0] for case in CASES]
    done = subprocess.run(
        [node, "--input-type=module", "-e", script, json.dumps(given)],
        cwd=REPOSITORY_ROOT / "api" / "console" / "static",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [make_printable(text, kept="\n\t") for text in given]
