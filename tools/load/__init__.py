"""Load tests: k6 loads the API in seven suites, and the API's answers are compared with reconciliation's records.

docs/LOAD.md says what each suite does and what must hold.
"""
