"""Audit: recomputes every hash chain as it arrives, keeps its own copy of every hash, and signs what it saw.

merkle.py is RFC 6962's tree; chain.py takes records; stored.py recomputes the ledger's rows; agent.py and sweep.py run
them; signing.py makes checkpoints; proofs.py makes proofs and verifier.py, which stands alone, checks them;
full.py is `ledgerline audit verify`. Nothing here imports the code that posts. docs/PROOF.md has the formats.
"""
