"""The documents and the code name the same settings, metrics, outcomes, errors, commands, targets and problems."""

import ast
import importlib
import itertools
import json
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pytest

from api.problems import Kind
from cli import COMMANDS, load
from domain.breaks import BreakKind
from domain.errors import LedgerlineError
from domain.outcomes import Outcome, QuarantineReason, Reason
from runtime.settings import REPOSITORY_ROOT, Settings

PACKAGES: Final = ("api", "cli", "db", "domain", "ops", "producers", "runtime", "streams", "tools")


@cache
def document(name: str) -> str:
    return (REPOSITORY_ROOT / name).read_text()


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of all tables in a document."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def rows_of(name: str, first: str) -> dict[str, list[str]]:
    """Return the other cells of each row whose first cell is code that matches `first`, by that code."""
    found = {}
    for cells in rows(document(name)):
        match = re.fullmatch(rf"`({first})`", cells[0])
        if match:
            assert match[1] not in found, f"{match[1]} is documented twice"
            found[match[1]] = cells[1:]
    return found


# ---------------------------------------------------------------------------------------------------- settings


def test_every_setting_is_documented_with_its_default() -> None:
    documented = rows_of("docs/SETTINGS.md", r"LEDGERLINE_\w+")
    fields = {f"LEDGERLINE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert documented.keys() == fields.keys()
    for variable, field in fields.items():
        shown, words = documented[variable]
        if isinstance(field.default, int | float):
            assert shown == f"`{field.default}`", variable
        assert field.description, variable
        said = field.description.split(";")[0].rstrip(".").replace("`", "")
        assert said.lower() in words.lower().replace("`", ""), f"{variable}: the document does not say {said!r}"


def test_every_setting_is_used() -> None:
    sources = "".join(
        path.read_text()
        for top in PACKAGES
        for path in (REPOSITORY_ROOT / top).rglob("*.py")
        if path.stem != "settings"
    )
    # Settings itself uses some of its fields, for example to make the address of Kafka.
    sources += (REPOSITORY_ROOT / "runtime" / "settings.py").read_text().replace("self.", "settings.")
    assert [name for name in Settings.model_fields if not re.search(rf"settings\.{name}\b", sources)] == []


# ---------------------------------------------------------------------------------------------------- metrics

KINDS: Final = {
    "Counter": "counter",
    "Gauge": "gauge",
    "Histogram": "histogram",
    "Summary": "summary",
    "LatencyHistogram": "histogram",
    "CounterMetricFamily": "counter",
    "GaugeMetricFamily": "gauge",
    "HistogramMetricFamily": "histogram",
}


def metrics() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield the exposed name, the type and the labels of each metric in the code."""
    for top in PACKAGES:
        for path in sorted((REPOSITORY_ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in KINDS and node.args:
                    name = node.args[0]
                    if isinstance(name, ast.Constant) and str(name.value).startswith("ledgerline_"):
                        yield made(node, str(name.value))


def made(call: ast.Call, name: str) -> tuple[str, str, tuple[str, ...]]:
    kind = KINDS[ast.unparse(call.func).split(".")[-1]]
    given = [keyword.value for keyword in call.keywords if keyword.arg in ("labelnames", "labels")] or call.args[2:3]
    labels = tuple(ast.literal_eval(given[0])) if given else ()
    return name + ("_total" if kind == "counter" else ""), kind, labels


def test_every_metric_is_documented_with_type_and_labels() -> None:
    found = {name: (kind, ", ".join(labels) or "-") for name, kind, labels in metrics()}
    documented = rows_of("docs/METRICS.md", r"ledgerline_\w+")
    assert documented.keys() == found.keys()
    assert {name: (cells[0], cells[1]) for name, cells in documented.items()} == found


def test_alerts_ask_for_metrics_that_there_are() -> None:
    known = {name for name, _, _ in metrics()}
    text = document("docs/METRICS.md")
    asked = set(re.findall(r"\bledgerline_\w+", text)) - {"ledgerline_"}
    assert {name for name in asked if re.sub(r"_(bucket|sum|count)$", "", name) not in known} == set()


def test_labels_are_closed_lists() -> None:
    used = {label for _, _, labels in metrics() for label in labels}
    assert used <= {
        "agent", "bound", "capability", "cause", "client", "compiled", "currency", "due", "family", "found_by", "kind",
        "lane", "method", "outcome", "part", "partition", "reason", "result", "route", "rule", "share", "stage",
        "state", "status", "version", "what",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- outcomes


def ordered(section: str) -> list[tuple[str, str]]:
    return [(cells[0], cells[1]) for cells in rows(section) if cells[0].isdigit()]


def test_outcomes_and_reasons_are_documented_in_order() -> None:
    text = document("docs/OUTCOMES.md")
    outcomes, reasons, quarantine = re.split(r"^## ", text, flags=re.MULTILINE)
    for section, members in ((outcomes, Outcome), (reasons, Reason), (quarantine, QuarantineReason)):
        assert ordered(section) == [(str(number), f"`{member.value}`") for number, member in enumerate(members, 1)]


# ---------------------------------------------------------------------------------------------------- errors


def every_module() -> None:
    """Import all modules, so that every error class is known. Skip modules that run as programs."""
    for top in PACKAGES:
        package = importlib.import_module(top)
        for found in pkgutil.walk_packages(package.__path__, f"{top}."):
            if not found.name.endswith(("__main__", "beancount_reader")):
                importlib.import_module(found.name)


def subclasses(base: type) -> Iterator[type]:
    for found in base.__subclasses__():
        if found.__module__.split(".")[0] in PACKAGES:
            yield found
            yield from subclasses(found)


def dotted(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def drawn_tree() -> set[tuple[str, str]]:
    """Return (parent, child) for each error in the tree of domain/errors.py's docstring; indentation is depth."""
    pairs = set()
    above = [dotted(LedgerlineError)]
    for line in (importlib.import_module("domain.errors").__doc__ or "").splitlines():
        match = re.match(r"(  +)([a-z_]+(?:\.[a-z_0-9]+)*\.[A-Z]\w+)  +\S", line)
        if match:
            depth = len(match[1]) // 2
            pairs.add((above[depth - 1], match[2]))
            above[depth:] = [match[2]]
    return pairs


def test_the_error_tree_is_drawn_whole() -> None:
    every_module()
    found = {
        (dotted(parent), dotted(child))
        for parent in (LedgerlineError, *subclasses(LedgerlineError))
        for child in parent.__subclasses__()
        if child.__module__.split(".")[0] in PACKAGES
    }
    assert drawn_tree() == found


def test_every_error_says_what_it_is_for() -> None:
    every_module()
    assert [found.__qualname__ for found in subclasses(LedgerlineError) if not (found.__doc__ or "").strip()] == []


def test_every_problem_type_is_documented_with_its_status() -> None:
    documented = rows_of("docs/ERRORS.md", r"[a-z]+(?:-[a-z]+)*")
    assert {kind.slug: str(kind.status) for kind in Kind} == {name: cells[0] for name, cells in documented.items()}


def test_every_kind_of_break_is_documented() -> None:
    text = document("docs/PROOF.md")
    assert [kind.value for kind in BreakKind if not re.search(rf"^\| \W*{kind.value}\W", text, re.MULTILINE)] == []


# ---------------------------------------------------------------------------------------------------- commands


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the command for every command without subcommands."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from leaves(child, (*path, name))


LEAVES: Final = [leaf for entry in COMMANDS for leaf in leaves(load(entry), (entry.name,))]


def test_every_command_and_option_is_documented() -> None:
    documented = rows_of("docs/CLI.md", "ledgerline [^`]+")
    by_words = {re.sub(r" \[?[A-Z-]+\]?", "", usage): (usage, cells) for usage, cells in documented.items()}
    assert by_words.keys() == {" ".join(("ledgerline", *path)) for path, _ in LEAVES}
    for path, command in LEAVES:
        usage, (summary, options) = by_words[" ".join(("ledgerline", *path))]
        assert summary == command.help.splitlines()[0], path
        assert set(re.findall(r"--[a-z-]+", options)) == options_of(command) - {"--json"}, path
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                assert parameter.name.upper().replace("_", "-") in usage, path


def options_of(command: Any) -> set[str]:
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


# These have no JSON option: a service writes logs, a proof is always JSON, and a key is always PEM.
WITHOUT_JSON: Final = {("service",), ("audit", "prove"), ("audit", "public-key")}


def test_every_command_prints_json_when_asked() -> None:
    assert {path for path, command in LEAVES if "--json" not in options_of(command)} == WITHOUT_JSON


def test_every_command_and_option_explains_itself() -> None:
    silent = []
    for path, command in LEAVES:
        if not (command.help or "").strip():
            silent.append(path)
        silent += [
            (*path, parameter.name)
            for parameter in command.params
            if not (getattr(parameter, "help", None) or "").strip() and path != ("service",)
        ]
    assert silent == []


# ---------------------------------------------------------------------------------------------------- make, links


def test_every_make_target_has_help_and_is_mentioned() -> None:
    makefile = document("Makefile")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert targets is not None
    told = document("README.md") + document("CONTRIBUTING.md")
    for target in targets[1].split():
        assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), target
        assert f"make {target}" in told, f"neither README.md nor CONTRIBUTING.md mentions make {target}"


DOCUMENTS: Final = sorted(
    str(path.relative_to(REPOSITORY_ROOT))
    for path in [
        *REPOSITORY_ROOT.glob("*.md"),
        *(REPOSITORY_ROOT / "docs").rglob("*.md"),
        *(REPOSITORY_ROOT / "ops" / "runbooks").glob("*.md"),
    ]
)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    folder = (REPOSITORY_ROOT / name).parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", document(name)):
        if re.match(r"[a-z]+:", target):
            continue
        page = folder / target if target else REPOSITORY_ROOT / name
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text()), f"{target}#{anchor}"


# A newcomer reads these in order. Each ends with a link to the next one.
PATH: Final = (
    "README.md",
    "docs/ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/CAPABILITIES.md",
    "docs/decisions/README.md",
)


@pytest.mark.parametrize(("name", "after"), list(itertools.pairwise(PATH)))
def test_a_newcomer_is_led_from_page_to_page(name: str, after: str) -> None:
    last = document(name).strip().splitlines()[-1]
    assert last.startswith("Next: ")
    (target,) = re.findall(r"\]\(([^)]+)\)", last)
    assert ((REPOSITORY_ROOT / name).parent / target).resolve() == (REPOSITORY_ROOT / after).resolve()


@pytest.mark.parametrize("name", PATH)
def test_the_files_that_a_newcomer_is_told_of_are_there(name: str) -> None:
    """`loans` is the capability of the examples; N stands for a number."""
    named = set(re.findall(r"`?\b((?:[a-z_]+/)+[a-z_]+\.(?:py|sql|json|toml))\b", document(name)))
    assert [path for path in sorted(named) if "loans" not in path and not (REPOSITORY_ROOT / path).exists()] == []


def test_every_page_is_on_the_list_of_pages() -> None:
    listed = set(re.findall(r"\]\(([^)#]+)", document("docs/README.md")))
    pages = {path.relative_to(REPOSITORY_ROOT / "docs") for path in (REPOSITORY_ROOT / "docs").rglob("*.md")}
    assert {str(page) for page in pages if page.parts[0] != "decisions"} - {"README.md"} <= listed


def test_every_decision_is_on_the_list_of_decisions() -> None:
    listed = re.findall(r"\[(\d+) [^]]+\]\((\d{4}-[a-z0-9-]+\.md)\)", document("docs/decisions/README.md"))
    assert all(int(number) == int(name[:4]) for number, name in listed)
    pages = (REPOSITORY_ROOT / "docs" / "decisions").glob("0*.md")
    assert sorted(name for _, name in listed) == sorted(page.name for page in pages)


def test_each_cell_of_the_attackers_table_is_refused_or_named_by_a_test_or_says_that_nobody_notices() -> None:
    text = document("docs/PROOF.md").partition("## The attacker's table")[2]
    table = [cells for cells in rows(text) if cells[0] not in ("who", "code")]
    tests_by_code = {cells[0]: re.findall(r"`(test_\w+)`", cells[-1]) for cells in table if cells[0].isupper()}
    known: set[str] = set()
    for path in (REPOSITORY_ROOT / "tests").rglob("test_*.py"):
        known.update(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    for code, tests in tests_by_code.items():
        assert tests, code
        assert set(tests) <= known, code
    used = set()
    for who, *cells in table:
        if who in tests_by_code:
            continue
        for cell in cells:
            codes = re.findall(r"\b[A-Z]{4,}\b", cell)
            assert codes or re.search(r"nobody|no such key yet|as the (owner|administrator)", cell), (who, cell)
            assert "refused" not in cell or codes, (who, cell)
            used.update(codes)
    assert used == tests_by_code.keys()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_documents_exist(name: str) -> None:
    known = {path for path, _ in LEAVES} | {path[:1] for path, _ in LEAVES}
    for words in re.findall(r"(?:^|`)ledgerline ([a-z]+(?: [a-z-]+)?)", document(name), re.MULTILINE):
        path = tuple(words.split())
        assert path in known or path[:1] in {leaf for leaf, _ in LEAVES}, f"ledgerline {words}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_in_documents_is_json(name: str) -> None:
    for block in re.findall(r"^```json\n(.*?)^```$", document(name), re.MULTILINE | re.DOTALL):
        json.loads(block)
