"""Load tests: k6 asks the API in seven ways, and what it was promised is held against what reconciliation has found.

docs/LOAD.md says what each suite does and what it must hold.
"""
