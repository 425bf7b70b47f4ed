"""Replay: a ledger rebuilt, or brought up to date, from ledger.journal (docs/decisions/0007-what-a-replay-needs.md)."""
