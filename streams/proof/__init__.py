"""The proof of the books, apart from the code that posts: records, reconciliation, audit and replay."""
