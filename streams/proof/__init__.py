"""The proof of the books, apart from the code that posts: records, reconciliation, audit and replay.

Reconciliation and audit are two provers that share no rules. Both are a JournalAgent (journal_agent.py), with Chores
between its batches (chores.py).
"""
