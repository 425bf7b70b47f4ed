"""Posting: the only writer of the ledger. poster.py is the transaction, service.py the Faust worker around it."""
