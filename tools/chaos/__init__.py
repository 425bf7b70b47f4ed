"""Chaos: real processes on real parts, faults from a seeded schedule, and an oracle that judges the ledger afterwards.

`python -m tools.chaos --help`; docs/guarantees.md says which scenario proves which promise.
"""
