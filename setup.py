"""Compile the hot, pure modules with mypyc if COMPILE_WITH_MYPYC=1, which `make install` sets.

Without it, no module is compiled and all code runs interpreted: docs/decisions/0013-compiled-modules.md.
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

# The only list of compiled modules. Tests must not patch these modules, because compiled callers would not see the
# patch. Their classes must have no subclasses in other modules.
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
    "runtime/avro_codec.py",
    "streams/proof/audit/chain.py",
    "streams/proof/audit/stored.py",
    "streams/posting/reading.py",
    "streams/posting/rows.py",
    "streams/proof/records/canonical.py",
    "streams/proof/reconciliation/checks.py",
    "streams/proof/records/decoding.py",
    "streams/proof/reconciliation/faithful.py",
    "streams/proof/reconciliation/state.py",
)
# All compiled modules share one library. It lies in a package, because an editable installation finds only packages.
# Therefore mypyc gives a wrong __file__, such as domain/domain/..., to a module that another compiled module imports:
# do not use __file__ of these modules.
LIBRARY = "domain.ledgerline"
# The digest of each source of the compiled modules, in sha256sum's format. runtime/compiled_modules.py reads it.
RECORD = Path("domain/ledgerline__mypyc.sha256")


def imported(source):
    """Yield the project's own sources that a source imports."""
    for node in ast.walk(ast.parse(Path(source).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = f"{name.replace('.', '/')}.py"
                if Path(path).is_file():
                    yield path


def missing_tool():
    """Return, in a few words, what this machine lacks for a compilation; None if it lacks nothing."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no Python headers (Python.h)"
    return None


def compiled_modules():
    """Return the extensions to build; none without COMPILE_WITH_MYPYC=1, or, with a message, without a compiler."""
    if os.environ.get("COMPILE_WITH_MYPYC") != "1":
        return []
    # Remove every file of an earlier build first, so that the sources run interpreted if this build fails.
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
    from mypyc.build import mypycify  # noqa: PLC0415 - mypyc is there only for a compilation

    # Take the digests before mypyc reads the sources, so that a source edited meanwhile counts as changed. Include the
    # imported sources, because their constants and types are compiled in.
    sources = sorted({*MODULES, *(path for module in MODULES for path in imported(module))})
    RECORD.write_text("".join(f"{sha256(Path(path).read_bytes()).hexdigest()}  {path}\n" for path in sources))
    os.environ["MYPY_CACHE_DIR"] = "build/mypy"  # not the cache of `make types`, whose options differ
    # With gcc, -O3 gives no faster code here than -O1, and takes longer to compile.
    extensions = mypycify(list(MODULES), opt_level="1", group_name=LIBRARY)
    for extension in extensions:
        extension.depends += ["constraints.txt", "pyproject.toml"]  # another mypyc compiles in another runtime
    return extensions


setup(ext_modules=compiled_modules())
