"""Keeping one run of Ledgerline up: `supervisor` starts `run`, which drives `service_process` and `part_watch`."""
