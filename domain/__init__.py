"""Pure rules of the ledger: no I/O, nothing of ours imported from above."""
