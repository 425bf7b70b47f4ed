"""Checks that hold for the arguments of every command, and readers of arguments that several commands share."""

import getpass
import math
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import typer

from domain.intents import ADDRESS_PATTERN

_WHOLE: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_INT64: Final = range(-(2**63), 2**63)


def guard_arguments(command: Any) -> None:
    """Make each argument and option of a command, or of a group's commands, refuse a value that no command can use."""
    for below in getattr(command, "commands", {}).values():
        guard_arguments(below)
    for parameter in command.params:
        parameter.process_value = _guard(parameter, parameter.process_value)


def _guard(parameter: Any, convert: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    kind = parameter.type_descriptor.annotation
    kind = (get_args(kind) or (kind,))[0]
    name = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name.upper().replace("_", "-")

    def process(context: Any, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else [value]:
            fault = (
                find_argument_fault(text, kind, may_be_empty=parameter.default == "") if isinstance(text, str) else None
            )
            if fault is not None:
                raise typer.BadParameter(fault, param_hint=name)
        return convert(context, value)

    return process


def find_argument_fault(text: str, kind: Any, *, may_be_empty: bool = False) -> str | None:
    """Return why the text of an argument cannot be used as the type `kind`; None if its form is right."""
    if not text:
        # A shell makes "$UNSET" empty. Treating an empty --key as left out would make a new key, and so pay twice.
        return None if may_be_empty else "it is empty; give it a value, or leave it out."
    if "\x00" in text:
        return "it holds a NUL."
    if kind is not Path and not _is_text(text):
        return f"{text!r} is not written in the encoding of this terminal."
    if kind is int:
        if not _WHOLE.fullmatch(text):
            return f"{text!r} is no whole number: write it with only the digits 0 to 9."
        if int(text[:40]) not in _INT64:
            return f"{text[:40]} is too large a number."
    if kind is float and not (_DECIMAL.fullmatch(text) and math.isfinite(float(text))):
        return f"{text!r} is no number: write it with the digits 0 to 9 and a decimal point, such as 1.5."
    if kind is uuid.UUID:
        try:
            uuid.UUID(text)
        except ValueError:
            return f"{text!r} is no intent id: it has 32 hexadecimal digits, such as {_ID_EXAMPLE}."
    return None


_ID_EXAMPLE: Final = "6b1f3f1e-5f0b-5d0e-8a51-0d1a53c3a1b2"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_key(key: str) -> str:
    """Return an idempotency key that fits into an HTTP header; raise BadParameter if it does not fit."""
    fault = None
    if key != key.strip(" "):
        fault = f"{key!r} begins or ends with a space, which HTTP drops: take it away."
    elif any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in key):
        fault = f"{key!r} holds a line break or another control character, which HTTP does not carry: remove it."
    if fault is not None:
        raise typer.BadParameter(fault, param_hint="--key")
    return key


def check_address(address: str, hint: str) -> str:
    """Return an account's address; raise BadParameter, which names the argument or option `hint`, if it is none."""
    if not ADDRESS_PATTERN.fullmatch(address):
        raise typer.BadParameter(
            f"{address!r} is no address: join segments of letters A to Z, digits, - and _ by colons,"
            " such as users:42:wallet.",
            param_hint=hint,
        )
    return address


def find_user_name() -> str:
    """Return the name of this machine's user, for the record; its number if it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
