"""Tests. None begins where compiled modules are not those of their sources, as it would test the code of before."""

from runtime.compiled_modules import StaleModules, refuse_stale

try:
    refuse_stale()
except StaleModules as stale:
    raise SystemExit(str(stale)) from None
