"""What proves the books from outside: records as they are read, reconciliation, audit, replay."""
