"""The demo: it sends a real ledger and a busy day through HTTP, Kafka and Postgres, proves them, and alters one row.

steps.py lists the steps in order; each step is a function in the module of its subject.
"""
