"""The compiled modules are those that setup.py lists, and a library compiled from other sources is refused."""

import ast
import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

import cli
from domain.errors import LedgerlineError
from runtime.compiled_modules import LIBRARY, RECORD, StaleModules, find_changed_sources, refuse_stale
from runtime.settings import REPOSITORY_ROOT

SOURCE: Final = "domain/rule.py"
SENTENCE: Final = (
    "domain/rule.py changed since the modules were compiled:"
    " run 'make install' to compile them again, or 'make interpreted' to run without them."
)


def listed() -> tuple[str, ...]:
    """Return the modules that setup.py compiles. Read the list without running setup.py."""
    assigned = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.parse((REPOSITORY_ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign)
    }
    modules: tuple[str, ...] = ast.literal_eval(assigned["MODULES"])
    assert len(modules) > 10
    return modules


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a folder with one source, its library, and the digest that the source had when it was compiled."""
    (tmp_path / "domain").mkdir()
    (tmp_path / SOURCE).write_text("RULE = 1\n")
    (tmp_path / LIBRARY).write_bytes(b"")
    (tmp_path / RECORD).write_text(f"{sha256((tmp_path / SOURCE).read_bytes()).hexdigest()}  {SOURCE}\n")
    return tmp_path


# ---------------------------------------------------------------------------------------------------- the guard


def test_what_was_compiled_as_it_stands_is_run(built: Path) -> None:
    assert find_changed_sources(built) == []
    refuse_stale(built)


def test_the_content_counts_and_not_the_time(built: Path) -> None:
    """Switching to another branch and back changes the times of files but not their content."""
    os.utime(built / SOURCE)
    assert find_changed_sources(built) == []


def test_a_source_that_was_edited_is_named(built: Path) -> None:
    (built / SOURCE).write_text("RULE = 2\n")
    assert find_changed_sources(built) == [SOURCE]
    with pytest.raises(StaleModules) as refused:
        refuse_stale(built)
    assert str(refused.value) == SENTENCE


def test_a_source_that_is_gone_is_named(built: Path) -> None:
    (built / SOURCE).unlink()
    assert find_changed_sources(built) == [SOURCE]


def test_a_library_that_nobody_recorded_is_not_trusted(built: Path) -> None:
    (built / RECORD).unlink()
    assert find_changed_sources(built) == [RECORD]


def test_without_a_library_nothing_is_stale(built: Path) -> None:
    """Without a library Python interprets the sources, as in a fresh clone."""
    (built / LIBRARY).unlink()
    (built / SOURCE).write_text("RULE = 2\n")
    assert find_changed_sources(built) == []


def test_pytest_refuses_in_one_sentence(built: Path) -> None:
    """The real guard runs in a folder whose source was edited after compilation."""
    (built / SOURCE).write_text("RULE = 2\n")
    (built / "pytest.ini").write_text("[pytest]\n")
    for name in ("domain/__init__.py", "domain/errors.py", "ops/__init__.py", "runtime/compiled_modules.py"):
        (built / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY_ROOT / name, built / name)
    (built / "tests").mkdir()
    shutil.copy(REPOSITORY_ROOT / "tests" / "__init__.py", built / "tests")
    (built / "tests" / "conftest.py").write_text("")
    (built / "tests" / "test_one.py").write_text("def test_one() -> None:\n    assert True\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_one.py"]
    run = subprocess.run(command, cwd=built, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, f"{SENTENCE}\n")
    (built / SOURCE).write_text("RULE = 1\n")
    again = subprocess.run(command, cwd=built, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout


def test_so_does_the_command_line_and_with_it_every_service(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (built / SOURCE).write_text("RULE = 2\n")
    monkeypatch.setattr(cli, "refuse_stale", lambda: refuse_stale(built))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {SENTENCE}\n"
    assert issubclass(StaleModules, LedgerlineError)


# ---------------------------------------------------------------------------------------------------- the build


@pytest.mark.skipif(not (REPOSITORY_ROOT / LIBRARY).exists(), reason="nothing is compiled: no compiler, or by choice")
def test_the_modules_of_the_list_are_compiled_and_no_others() -> None:
    names = [module.removesuffix(".py").replace("/", ".") for module in listed()]
    program = (
        "import importlib, json, sys\n"
        "print(json.dumps({name: importlib.import_module(name).__file__ for name in sys.argv[1:]}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True
    )
    suffix = LIBRARY.removeprefix("domain/ledgerline__mypyc")
    loaded = json.loads(run.stdout)
    assert [name for name in names if not loaded[name].endswith(f"/{name.replace('.', '/')}{suffix}")] == []
    there = {
        str(path.relative_to(REPOSITORY_ROOT))
        for top in {module.split("/")[0] for module in listed()}
        for path in (REPOSITORY_ROOT / top).rglob(f"*{suffix}")
    }
    assert there == {module.removesuffix(".py") + suffix for module in listed()} | {LIBRARY}
    recorded = {line.split("  ")[1] for line in (REPOSITORY_ROOT / RECORD).read_text().splitlines()}
    assert recorded > set(listed()), "and modules that constants and types come from"
    assert "db/audit.py" in recorded, "streams/proof/audit/chain.py takes the length of a hash from it"


def builds(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py in a folder that holds the files it reads and an old library."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY_ROOT / name, folder)
    (folder / "domain").mkdir()
    (folder / LIBRARY).write_bytes(b"")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_without_a_compiler_ledgerline_says_so_and_runs_interpreted(tmp_path: Path) -> None:
    run = builds(tmp_path, COMPILE_WITH_MYPYC="1", CC="compiler-that-is-not-there -O2")
    assert (run.returncode, run.stderr) == (
        0,
        "Ledgerline runs interpreted, as there is no C compiler (compiler-that-is-not-there):"
        " install it and run 'make compiled' for more speed.\n",
    )
    assert not (tmp_path / LIBRARY).exists(), "an older one would be run in place of the sources"


def test_nothing_is_compiled_that_nobody_asked_for(tmp_path: Path) -> None:
    """A plain `pip install -e .` needs no compiler."""
    run = builds(tmp_path, COMPILE_WITH_MYPYC="", CC="compiler-that-is-not-there")
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / LIBRARY).exists()


def test_the_image_runs_compiled_and_holds_no_compiler() -> None:
    stages = (REPOSITORY_ROOT / "ops" / "docker" / "Dockerfile").read_text().split("\nFROM ")
    building, final = next(stage for stage in stages if "AS compiled" in stage), stages[-1]
    assert "COMPILE_WITH_MYPYC=1" in building
    assert "gcc" in building
    for tool in ("apt-get", "gcc", "mypy"):
        assert tool not in final
    for top in {module.split("/")[0] for module in listed()} | {RECORD.split("/")[0]}:
        assert f"COPY --from=compiled /app/{top} ./{top}\n" in final
        assert f"COPY {top} ./{top}\n" in building
