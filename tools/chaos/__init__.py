"""Chaos: real processes on the real parts, faults from a seeded schedule, and an oracle that judges what is left.

`python -m tools.chaos --help`; docs/guarantees.md says which scenario proves which promise.
"""
