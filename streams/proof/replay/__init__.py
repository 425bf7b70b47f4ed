"""Replay: rebuilds or completes a ledger from ledger.journal (docs/decisions/0007-what-a-replay-needs.md)."""
