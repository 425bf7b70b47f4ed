"""The demo: a real ledger and a busy day go through HTTP, Kafka and Postgres, and are proved; then one row is altered.

steps.py is the list of what happens, in order; each step is a function in the module of its subject.
"""
