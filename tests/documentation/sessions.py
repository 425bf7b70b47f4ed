"""The console sessions of a document: commands after `$ `, and the output that the document shows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^ *```(\w*)")
_COMMENT: Final = re.compile(r"\s+# .*$")

# Text that differs from run to run. The patterns are applied in this order.
_VOLATILE: Final = (
    (re.compile(r"llk_[0-9a-f]{16}_[\w-]{43}"), "KEY"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00| UTC)?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16,}\b…?"), "HEX"),
    (re.compile(r"\b(lane|seq|partition|offset)(\W+)\d[\d,]*"), r"\1\2NUMBER"),
    (re.compile(r"\b\d[\d,.]*( m?s\b|/s\b)"), r"NUMBER\1"),
    # Ports and process ids.
    (re.compile(r"\b\d{4,}\b"), "NUMBER"),
    (re.compile(r"[━─┏┓┗┛┡┩└┘┳┻╇┴]+"), "-"),
    (re.compile(r"\s+"), " "),
)


@dataclass
class Step:
    """One command, and the output that the document shows after it."""

    document: str
    line: int
    command: str
    end: int
    """The number of the command's last line. The output begins on the next line."""
    shown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.command}"

    @property
    def bare(self) -> str:
        """The command without its comment."""
        return _COMMENT.sub("", self.command.splitlines()[0])


def steps(path: Path, name: str) -> Iterator[Step]:
    """Yield every command of every `console` block, and every line of every `sh` block, in order.

    A line that ends with a backslash continues on the next line. The lines of a here-document begin with `> `.
    """
    language: str | None = None
    step: Step | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is not None:
            if step is not None:
                yield step
            step = None
            language = fence[1] if language is None else None
        elif step is not None and step.command.endswith("\\"):
            step.command = f"{step.command[:-1].rstrip()} {line.strip()}"
            step.end = number
        elif (language == "console" and line.startswith("$ ")) or (language == "sh" and line.strip()):
            if step is not None:
                yield step
            step = Step(name, number, line.removeprefix("$ "), number)
        elif language == "console" and step is not None and line.startswith(">") and not step.shown:
            step.command += f"\n{line[2:]}"
            step.end = number
        elif language == "console" and step is not None:
            step.shown.append(line)


def shape(line: str) -> str:
    """Return a line without the text that differs from run to run: keys, times, hashes, places, ports, table widths."""
    for pattern, word in _VOLATILE:
        line = pattern.sub(word, line)
    return line.strip()


def difference(shown: list[str], printed: list[str]) -> str | None:
    """Return the first difference between shown and printed lines as a sentence, or None.

    `...` stands for any lines.
    """
    wanted = [shape(line) for line in shown if line.strip()]
    found = [shape(line) for line in printed if line.strip()]
    if not wanted:
        return None
    place = 0
    anything = False
    for line in wanted:
        if line == "...":
            anything = True
            continue
        while anything and place < len(found) and found[place] != line:
            place += 1
        if place >= len(found) or found[place] != line:
            instead = found[place] if place < len(found) else "nothing more"
            return f"the document shows {line!r}, and there was {instead!r}"
        place, anything = place + 1, False
    if place < len(found) and not anything:
        return f"the document does not show {found[place]!r}"
    return None
