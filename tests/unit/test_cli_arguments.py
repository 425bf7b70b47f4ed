"""Arguments that no command can use give a sentence with the reason, and no argument causes a traceback."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from cli import COMMANDS, load
from tests.command_line import call, told_in_one_sentence

INTENT = "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2"
POST = ("intents", "post", "--debit", "external:bank", "--credit", "users:1:wallet")

pytestmark = pytest.mark.usefixtures("no_ledger")


REFUSED = [
    ((*POST, "--amount", "1", "--key", ""), "Invalid value for --key: it is empty; give it a value, or leave it out."),
    (("intents", "reverse", INTENT, "--key", ""), "--key: it is empty"),
    ((*POST, "--amount", ""), "--amount: it is empty"),
    (("balance", ""), "ADDRESS: it is empty"),
    (("chart", "list", "--tenant", ""), "--tenant: it is empty"),
    (("keys", "add", "till", "--tenant", ""), "--tenant: it is empty"),
    (("intents", "post", "--file", ""), "--file: it is empty"),
    (("chart", "set", "users:*", "liability", "--currency", ""), "--currency: it is empty"),
    ((*POST, "--amount", "1", "--key", "x "), "--key: 'x ' begins or ends with a space, which HTTP drops"),
    ((*POST, "--amount", "1", "--key", "x\n"), r"--key: 'x\n' holds a line break or another control character"),
    ((*POST, "--amount", "1", "--key", "x\x7fy"), r"--key: 'x\x7fy' holds a line break or another control"),
    (("intents", "reverse", INTENT, "--key", "x "), "--key: 'x ' begins or ends with a space"),
    ((*POST, "--amount", "1", "--key", "caf\udce9"), r"--key: 'caf\udce9' is not written in the encoding of this term"),
    ((*POST, "--amount", "1", "--key", "a\x00"), "--key: it holds a NUL."),
    ((*POST, "--amount-minor", "1_000"), "--amount-minor: '1_000' is no whole number"),
    ((*POST, "--amount-minor", "1e2"), "--amount-minor: '1e2' is no whole number"),
    ((*POST, "--amount-minor", "٣"), "--amount-minor: '٣' is no whole number"),
    ((*POST, "--amount-minor", "9" * 30), "is too large a number"),
    ((*POST, "--amount-minor", "9" * 9000), "is too large a number"),
    (
        ("intents", "post", "--debit", "café", "--credit", "a", "--amount", "1"),
        "--debit: 'café' is no address: join segm",
    ),
    (("intents", "post", "--debit", "a", "--credit", "users:1/wallet", "--amount", "1"), "--credit: 'users:1/wallet'"),
    (("balance", "users:*:wallet"), "ADDRESS: 'users:*:wallet' is no address"),
    (("accounts", "entries", "../journal"), "ADDRESS: '../journal' is no address"),
    (("audit", "prove", "nosuch"), "INTENT: 'nosuch' is no intent id"),
    (("intents", "show", "nosuch"), "INTENT-ID: 'nosuch' is no intent id"),
    (("keys", "add", "till", "--expires-days", "999999999"), "--expires-days: a key may last 36,525 days at most"),
    (("keys", "add", "till", "--expires-days", "nan"), "--expires-days: 'nan' is no number"),
    (("status", "--watch", "--interval", "inf"), "--interval: 'inf' is no number"),
    (("lanes", "add", "9999999999999999999999"), "TOTAL: 9999999999999999999999 is too large a number"),
    (("nonsense\x1b[2J",), r"No such command 'nonsense\x1b[2J'"),
    (("status", "--\x1b[2J"), "No such option"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED, ids=[ascii(" ".join(case[0]))[:70] for case in REFUSED])
def test_an_argument_that_nothing_can_use_is_told_for_what_it_is(arguments: tuple[str, ...], told: str) -> None:
    sentence = told_in_one_sentence(call(*arguments), 2)
    assert told in sentence
    assert "\x1b" not in sentence


def leaves(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    else:
        for name, inner in below.items():
            yield from leaves(inner, *path, name)


EVERY = [leaf for entry in COMMANDS for leaf in leaves(load(entry), entry.name)]
ODD = {"empty": "", "NUL": "\x00", "absurd": "9" * 40, "control": "\x1b[2J", "broken": "\udce9", "digits": "١_٢"}


def filled(command: Any, odd: str) -> Iterator[list[str]]:
    """Yield command lines: each argument and option in turn gets the odd value, and the others get usable ones."""
    fit = {"uuid": INTENT, "int": "1", "float": "1", "path": "/nowhere/file"}

    def value(parameter: Any) -> str:
        choices = parameter.type_descriptor.choices
        kind = parameter.type_descriptor.annotation
        return str(choices[0].value) if choices else fit.get(getattr(kind, "__name__", "").lower(), "a")

    wanted = [parameter for parameter in command.params if parameter.required]
    for chosen in command.params:
        if getattr(chosen, "is_flag", False):
            continue
        line: list[str] = []
        for parameter in [*wanted, *([] if chosen in wanted else [chosen])]:
            given = odd if parameter is chosen else value(parameter)
            line += [given] if parameter.param_type_name == "argument" else [f"{parameter.opts[-1]}={given}"]
        yield line


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_command_shows_a_traceback_whatever_it_is_given(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that accept the odd value find no ledger, and the patch makes sure that none starts one."""
    monkeypatch.setattr("cli.supervision.supervisor.start_run", _refuse)
    tried = 0
    for path, command in EVERY:
        if path[0] in ("demo", "observe"):
            continue
        for line in filled(command, odd):
            done = call(*path, *line)
            assert "Traceback" not in done.told, (path, line, done.told)
            assert done.code in (0, 1, 2), (path, line, done)
            assert len(done.told.splitlines()) <= 1, (path, line, done.told)
            assert "\x1b" not in done.out + done.told, (path, line)
            tried += 1
    assert tried > 80


def _refuse(*_arguments: object, **_options: object) -> None:
    raise typer.Abort
