"""Audit: recomputes every hash chain as records arrive, keeps its own copy of every hash, and signs checkpoints.

domain/merkle.py has the tree of RFC 6962; chain.py takes records; stored.py recomputes the ledger's rows; agent.py and
sweep.py run them; signing.py makes checkpoints; domain/proofs.py makes proofs, and verifier.py, which stands alone,
checks them; full.py is `ledgerline audit verify`. Nothing here imports the code that posts. docs/PROOF.md has the
formats.
"""
