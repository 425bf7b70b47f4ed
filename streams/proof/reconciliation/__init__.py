"""Reconciliation: recomputes from the topics what the ledger must hold, and says where it differs.

decoding.py and canonical.py read records and hash them with code of their own; checks.py holds the rules, pure;
state.py adds up a batch, books.py all batches; source.py follows payments.intents in step with ledger.journal;
faithful.py compares the two; agent.py runs it batch by batch, sweep.py between batches, full.py all at once for
`ledgerline reconcile`.
Nothing here, nor in streams/proof/audit, imports the code that posts. docs/PROOF.md says what is proved.
"""
