"""Compiles the hot, pure modules with mypyc where COMPILE_WITH_MYPYC=1 asks for it, as `make install` does.

Without it nothing is compiled, and all runs interpreted: docs/decisions/0013-compiled-modules.md.
"""

import ast
import os
import shlex
import shutil
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path

from setuptools import setup

# The only list of them. What is here must not be patched in tests, which compiled callers would not see, and has no
# subclasses that are not here.
MODULES = (
    "api/plain_bodies.py",
    "domain/chart.py",
    "domain/decision.py",
    "domain/fingerprint.py",
    "domain/hash_chain.py",
    "domain/intents.py",
    "domain/journal.py",
    "domain/money.py",
    "domain/outcomes.py",
    "domain/screening.py",
    "domain/stored_records.py",
    "producers/compiled.py",
    "streams/audit/chain.py",
    "streams/audit/stored.py",
    "streams/plain_intents.py",
    "streams/posting/reading.py",
    "streams/posting/rows.py",
    "streams/reconciliation/canonical.py",
    "streams/reconciliation/checks.py",
    "streams/reconciliation/compiled.py",
    "streams/reconciliation/decoding.py",
    "streams/reconciliation/faithful.py",
    "streams/reconciliation/state.py",
)
# The library that all of them share lies in a package, as an editable installation finds packages alone. So what mypyc
# gives as __file__ of a module that another of them imports begins with domain/domain or the like: use none of theirs.
LIBRARY = "domain.ledgerline"
# Of each source that the modules were made from, in sha256sum's form; ops/compiled_modules.py holds them against it.
RECORD = Path("domain/ledgerline__mypyc.sha256")


def imported(source):
    """The project's own sources that a source imports."""
    for node in ast.walk(ast.parse(Path(source).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = f"{name.replace('.', '/')}.py"
                if Path(path).is_file():
                    yield path


def missing_tool():
    """What a compilation needs and this machine lacks, in a few words; None where all is there."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no Python headers (Python.h)"
    return None


def compiled_modules():
    """The extensions; none where nobody asked, or, with a sentence, where there is no compiler."""
    if os.environ.get("COMPILE_WITH_MYPYC") != "1":
        return []
    # From here on nothing of an earlier build may be left: a build that fails leaves the sources, interpreted.
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for top in {module.split("/")[0] for module in MODULES}:
        for built in Path(top).rglob(f"*{suffix}"):
            built.unlink()
    RECORD.unlink(missing_ok=True)
    missing = missing_tool()
    if missing is not None:
        sys.stderr.write(
            f"Ledgerline runs interpreted, as there is {missing}: install it and run 'make compiled' for more speed.\n"
        )
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - only who compiles has it

    # Digests before mypyc reads: what is edited meanwhile counts as changed. With the sources of constants and types
    # that are compiled in.
    sources = sorted({*MODULES, *(path for module in MODULES for path in imported(module))})
    RECORD.write_text("".join(f"{sha256(Path(path).read_bytes()).hexdigest()}  {path}\n" for path in sources))
    os.environ["MYPY_CACHE_DIR"] = "build/mypy"  # apart from that of `make types`, whose options are not quite the same
    # gcc's -O3 is no faster here than -O1, and takes longer.
    extensions = mypycify(list(MODULES), opt_level="1", group_name=LIBRARY)
    for extension in extensions:
        extension.depends += ["constraints.txt", "pyproject.toml"]  # another mypyc has another runtime to compile in
    return extensions


setup(ext_modules=compiled_modules())
