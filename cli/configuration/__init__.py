"""Checks that find faults of a configuration before they do harm: `ledgerline config check`."""
