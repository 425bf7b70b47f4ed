"""The pure rules of the ledger: no I/O, and no import from the other packages of Ledgerline."""
