"""Tests. They stop at once if a compiled module is older than its source, as they would test the old code."""

from runtime.compiled_modules import StaleModules, refuse_stale

try:
    refuse_stale()
except StaleModules as stale:
    raise SystemExit(str(stale)) from None
