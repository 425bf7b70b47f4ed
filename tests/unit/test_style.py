"""Rules of style that a linter does not know (docs: CONTRIBUTING.md), as tests over the files in git."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

from runtime.settings import REPOSITORY_ROOT

PACKAGES: Final = ("api", "cli", "db", "domain", "ops", "producers", "runtime", "streams", "tools")
MODULE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 70

# Modules that may sleep: waiting is their task, and they do not guess when something will have happened.
SLEEPERS: Final = {
    "api/gathering.py": "the pause between the beginnings of two look-ups",
    "db/migrate.py": "between two tries to get a lock, so that those who queued behind the last one are served",
    "tools/bench/ledger.py": "between two looks at a condition, bounded by a deadline",
    "tools/bench/beside.py": "posts at a fixed rate, and measures an idle worker for a time",
    "tools/bench/receiver.py": "a slow endpoint",
    "tools/bench/webhooks.py": "posts at a fixed rate",
    "ops/embedded/process.py": "the one loop behind wait_until, bounded by its deadline",
    "tools/load/hostile.py": "posts at a fixed rate, and attacks that hold a socket open",
    "producers/intents.py": "between two looks for delivery reports at the end, bounded by a deadline",
    "producers/importing/sender.py": "the pause that the server asks for by Retry-After, and back-off",
    "streams/outside_calls.py": "the least time of a turn, and back-off",
    "tests/integration/test_outside_calls.py": "a time in which nothing may happen, and the pace of a load",
    "tests/outside_server.py": "a server that is slow on purpose",
}

# SQL outside db/: measurements, and faults that a test plants, must not use the code that they check.
SQL_ALLOWED: Final = {
    "tools/bench/bare.py": "the bare limit: the same rows without Ledgerline, in tables of its own",
    "tools/bench/beside.py": "looks at the worker's positions from outside",
    "tools/bench/webhooks.py": "adds endpoints that the API refuses, as they are on this machine",
    "tools/bench/disk.py": "asks the catalogue how large tables and indexes are",
    "tools/bench/ledger.py": "makes and drops the bench's own database, and looks at its lanes from outside",
    "tools/bench/loop.py": "looks at the lanes of every agent from outside",
    "tools/bench/processor_time.py": "asks the catalogue whose backends there are",
    "tools/load/hostile.py": "asks the journal from outside which keys were posted",
    "ops/embedded/postgres_part.py": "makes the database of the embedded server, as createdb would",
    "tools/chaos/ledger.py": "makes a database for each ledger under test, and looks at its lanes from outside",
    "tools/chaos/scenarios/database.py": "trouble that only hand-written SQL makes",
    "tools/chaos/scenarios/tampering.py": "alters what the pipeline cannot",
    "tools/chaos/oracle/tables.py": "the oracle shares no code with what it judges",
}


@cache
def tracked() -> tuple[str, ...]:
    """Return all files that git tracks, and new files that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(sorted(name for name in listed.stdout.splitlines() if (REPOSITORY_ROOT / name).is_file()))


def modules(*tops: str) -> list[str]:
    return [name for name in tracked() if name.endswith(".py") and name.split("/")[0] in tops]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((REPOSITORY_ROOT / name).read_text(), name)


OURS: Final = modules(*PACKAGES)
TESTS: Final = modules("tests")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(name: str) -> Iterator[Function]:
    for node in ast.walk(tree(name)):
        if isinstance(node, Function):
            yield node


def calls(name: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of each call whose function is a plain name or attribute."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def test_the_packages_are_there() -> None:
    assert {name.split("/")[0] for name in OURS} == set(PACKAGES)
    assert len(TESTS) > 10


@pytest.mark.parametrize("name", OURS + TESTS)
def test_a_module_is_at_most_400_lines(name: str) -> None:
    assert len((REPOSITORY_ROOT / name).read_text().splitlines()) <= MODULE_LINES_MAX


def test_a_function_is_at_most_70_lines() -> None:
    long = [
        f"{name}:{node.lineno} {node.name}"
        for name in OURS + TESTS
        for node in functions(name)
        if node.end_lineno and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name in OURS if ast.get_docstring(tree(name)) is None] == []
    silent = [
        name for name in TESTS if ast.get_docstring(tree(name)) is None and (REPOSITORY_ROOT / name).read_text().strip()
    ]
    assert silent == []


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield public functions and classes with their paths, and the public methods of those classes."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{node.name}.")


def is_plain(node: Function | ast.ClassDef) -> bool:
    """Return whether a definition needs no docstring: a one-line property, or an override."""
    if isinstance(node, ast.ClassDef):
        return False
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    one_line = len(node.body) == 1 and node.body[0].lineno == node.body[0].end_lineno
    return ("property" in decorators and one_line) or "override" in decorators


# Methods whose names a framework chooses and documents.
FRAMEWORK_METHODS: Final = {"do_GET", "log_message", "perform_seek", "fetches", "shutdown", "dispatch"}


def test_everything_public_has_a_docstring() -> None:
    silent = [
        f"{name}:{node.lineno} {path}"
        for name in OURS
        for path, node in public(tree(name).body)
        if ast.get_docstring(node) is None and not is_plain(node) and node.name not in FRAMEWORK_METHODS
    ]
    assert silent == []


def test_nothing_is_printed_past_the_console() -> None:
    assert [f"{name}:{line}" for name in OURS for line, called in calls(name) if called == "print"] == []


def test_nothing_sleeps_in_place_of_a_condition() -> None:
    sleeping = {name for name in OURS + TESTS for _, called in calls(name) if called.split(".")[-1] == "sleep"}
    assert sleeping == set(SLEEPERS)


EVENT: Final = re.compile(r"[A-Za-z]+( [A-Za-z]+)*")


def test_a_log_event_is_a_fixed_phrase_of_plain_words() -> None:
    """An operator searches for it: no underscore, no variable part, no sentence (docs/LOGS_AND_TRACES.md)."""
    levels = {f"logger.{level}" for level in ("debug", "info", "warning", "error", "exception", "critical")}
    events = [
        (f"{name}:{node.lineno}", ast.literal_eval(node.args[0]))
        for name in OURS
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in levels
    ]
    assert len(events) > 40
    assert [place for place, event in events if not EVENT.fullmatch(event)] == []


def test_every_logger_of_ours_is_called_logger() -> None:
    """The rule above finds events by this name."""
    made = [
        (name, [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])])
        for name in OURS
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and ast.unparse(node.value).startswith("structlog.get_logger(")
    ]
    assert [name for name, targets in made if targets != ["logger"]] == []


def swallowing(name: str) -> Iterator[int]:
    """Yield the lines of handlers that catch every exception and ignore it."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            if broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
                yield node.lineno


def test_no_exception_is_swallowed_whole() -> None:
    assert [f"{name}:{line}" for name in OURS + TESTS for line in swallowing(name)] == []


SQL: Final = re.compile(
    r"^\s*(SELECT\s.+\sFROM\s|SELECT\s+\w+\(|INSERT\s+INTO\s|UPDATE\s+[\w.\"]+\s+SET\s|DELETE\s+FROM\s|TRUNCATE\s"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|SCHEMA|ROLE|DATABASE|FUNCTION|TRIGGER)\s|COPY\s+[\w.]+\s*\("
    r"|WITH\s+\w+\s+AS\s*\(|GRANT\s|REVOKE\s|LISTEN\s+\w+$|NOTIFY\s+\w+)",
    re.DOTALL,
)


def strings(name: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            value = node.value
            yield node.lineno, value.decode("latin-1") if isinstance(value, bytes) else value


def test_sql_is_in_queries_and_nowhere_else() -> None:
    outside = [name for name in OURS if not name.startswith("db/")]
    found = {name for name in outside for _, text in strings(name) if SQL.match(text)}
    assert found == set(SQL_ALLOWED)


def test_in_db_too() -> None:
    found = {name for name in OURS if name.startswith("db/") for _, text in strings(name) if SQL.match(text)}
    # LISTEN in db/reads.py is not among the queries: it takes no parameter and returns no row.
    assert found == {"db/migrate.py", "db/reads.py"}


# The host names are assembled here, so that this file does not contain what it searches for.
HOSTS: Final = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("repo1", "maven", "org"),
        ("repo", "maven", "apache", "org"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
        ("index", "crates", "io"),
    )
]
PLACES: Final = [f"/{top}/" for top in ("work/main", "work/shared", "tmp/w", "root", "home/user")]
MARKS: Final = [first + second for first, second in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"))]
TEXT: Final = [name for name in tracked() if not re.search(r"\.(png|jpg|gif|svg|ico|lock)$", name)]


@pytest.mark.parametrize("needles", [HOSTS, PLACES], ids=["package registries", "this machine"])
def test_no_file_names_a_registry_host_or_a_path_of_one_machine(needles: list[str]) -> None:
    found = [
        f"{name}: {needle}"
        for name in TEXT
        for needle in needles
        if needle in (REPOSITORY_ROOT / name).read_text(errors="replace")
    ]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    pattern = re.compile(rf"\b({'|'.join(MARKS)})\b")
    assert [name for name in TEXT if pattern.search((REPOSITORY_ROOT / name).read_text(errors="replace"))] == []


def test_text_files_end_with_one_newline_and_have_no_trailing_space() -> None:
    wrong = []
    for name in TEXT:
        text = (REPOSITORY_ROOT / name).read_text(errors="replace")
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            wrong.append(f"{name}: its end")
        wrong += [f"{name}:{number}" for number, line in enumerate(text.split("\n"), 1) if line != line.rstrip(" \t")]
    assert wrong == []


# Abbreviations that the project spells out. Each counts as a whole word of a name.
SHORT: Final = {
    "acct", "amt", "btn", "cfg", "cnt", "conn", "ctx", "cur", "curr", "db_conn", "desc", "dst", "err", "idx", "impl",
    "len_", "mgr", "msg", "num", "obj", "param", "pos", "prev", "proc", "qty", "recv", "repo", "req", "res", "resp",
    "ret", "sched", "src", "svc", "tmp", "tot", "txn", "val", "vals", "wrk",
}  # fmt: skip


# Arguments that must keep the name that a library's method gives them.
GIVEN_NAMES: Final = {("db/binary.py", "obj"), ("cli/__init__.py", "ctx")}


def named(name: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of everything that a module names: arguments, variables, functions, classes."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, Function | ast.ClassDef):
            yield node.lineno, node.name


def test_names_are_whole_words() -> None:
    short = [
        f"{name}:{line} {given}"
        for name in OURS
        for line, given in named(name)
        if set(given.lower().strip("_").split("_")) & SHORT and (name, given) not in GIVEN_NAMES
    ]
    assert short == []


# The verbs that names of functions begin with. Prefer one of these to a new one.
VERBS: Final = {
    "act", "add", "allow", "alter", "analyze", "answer", "append", "apply", "begin", "build", "catch", "cause", "chain",
    "change", "check", "choose", "claim", "clean", "climb", "close", "collect", "compare", "complain", "compute",
    "configure", "confirm", "connect", "convert", "copy", "count", "create", "cut", "deal", "decide", "decode", "defer",
    "delay", "describe", "drain", "drop", "dump", "encode", "end", "ensure", "enter", "escape", "exchange", "exit",
    "expand", "explain", "export", "fetch", "fill", "find", "fit", "follow", "forget", "format", "fund", "get", "group",
    "guard", "hand", "hash", "hold", "import", "infer", "iterate", "join", "judge", "keep", "list", "listen", "load",
    "lock", "look", "make", "map", "mark", "mask", "merge", "migrate", "mirror", "move", "name", "normalize", "note",
    "observe", "open", "park", "parse", "pass", "pause", "plan", "point", "post", "postpone", "prepare", "process",
    "prove", "prune", "publish", "put", "quarantine", "query", "raise", "rank", "read", "recompute", "reconcile",
    "record", "refuse", "register", "remove", "render", "repeat", "replace", "replay", "require", "resolve", "restore",
    "resume", "retry", "reverse", "revoke", "rewind", "run", "say", "seek", "send", "serve", "set", "settle", "show",
    "sign", "skip", "sort", "spawn", "split", "start", "stop", "store", "stream", "strip", "sum", "sweep", "take",
    "tell", "translate", "try", "turn", "vary", "verify", "wait", "watch", "wire", "write",
}  # fmt: skip
# What a predicate or a conversion begins with.
NO_VERBS: Final = {"is", "has", "needs", "from", "to"}
RULE_OF_NAMES: Final = ("api", "cli", "db", "domain", "producers", "runtime", "streams")
# Their names are those of commands.
COMMANDS: Final = {
    ("cli/commands/accounts.py", "balance"),
    ("cli/commands/demo.py", "demo"),
    ("cli/commands/operations.py", "operations"),
    ("cli/commands/services.py", "service"),
    ("cli/commands/stack.py", "down"),
    ("cli/commands/stack.py", "up"),
    ("cli/commands/status.py", "status"),
}


def registers(node: Function) -> bool:
    """Return whether a decorator registers the function for a route or a command, whose name it then bears."""
    names = {ast.unparse(call.func) for call in node.decorator_list if isinstance(call, ast.Call)}
    return any(name.split(".")[-1] in ("get", "post", "command", "callback") for name in names)


def test_a_function_begins_with_a_verb() -> None:
    """A name says what its function does: `find_settled`, not `settled`."""
    nouns = {
        (name, node.name)
        for name in modules(*RULE_OF_NAMES)
        for node in tree(name).body
        if isinstance(node, Function)
        and node.name.strip("_").split("_")[0] not in VERBS | NO_VERBS
        and node.name != "main"
        and not registers(node)
    }
    assert nouns == COMMANDS


@pytest.mark.parametrize("top", PACKAGES)
def test_packages_import_downwards_only_at_their_top(top: str) -> None:
    """A quick version of what import-linter proves in `make imports`: domain, runtime and db import nothing higher."""
    allowed = {"domain": {"domain"}, "runtime": {"domain", "runtime"}, "db": {"db", "domain", "runtime"}}.get(top)
    if allowed is None:
        return
    reached = {
        (node.module or "").split(".")[0]
        for name in OURS
        if name.startswith(f"{top}/")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom)
    }
    assert reached & set(PACKAGES) <= allowed


def test_beside_the_packages_there_is_no_python() -> None:
    strays = [name for name in tracked() if name.endswith(".py") and name.split("/")[0] not in (*PACKAGES, "tests")]
    # Programs for those who have no Ledgerline.
    assert strays == ["examples/post-from-kafka/post.py", "examples/receive-webhooks/receiver.py", "setup.py"]
    assert not list(Path(REPOSITORY_ROOT / "avro").rglob("*.py"))


def test_no_installed_distribution_hides_a_package_of_ours() -> None:
    """Installed packages come before ours on the import path: python-hcl2 8 brought a package named cli."""
    theirs = metadata.packages_distributions()
    assert {name: theirs[name] for name in PACKAGES if set(theirs.get(name, ())) - {"ledgerline"}} == {}
