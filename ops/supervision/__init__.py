"""Keeping one run of Ledgerline up: `run` drives `service_process` and `part_watch`, and `state` tells the world."""
