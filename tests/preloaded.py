"""Everything that `ledgerline` may import, for the process that forks commands and services (tests/forked.py).

To import a module must not start threads, connect to anything, or read LEDGERLINE_* variables.
"""

import importlib

import api.server
import streams.posting.service
import streams.proof.audit.service
import streams.proof.reconciliation.service
from cli import COMMANDS

__all__ = ["api", "streams"]

for entry in COMMANDS:
    importlib.import_module(f"cli.commands.{entry.module}")
