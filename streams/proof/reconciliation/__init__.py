"""Reconciliation: recomputes from the topics what the ledger must hold, and reports each difference.

streams/proof/records decodes and hashes records with its own code; checks.py has the rules, as pure functions;
state.py adds up a batch, shards.py all batches; source.py reads payments.intents in step with ledger.journal;
faithful.py compares the two; agent.py works batch by batch, sweep.py between batches, and full.py over everything, for
`ledgerline reconcile`.
Nothing here, nor in streams/proof/audit, imports the code that posts. docs/PROOF.md says what is proved.
"""
