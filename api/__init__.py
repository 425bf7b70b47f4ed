"""The HTTP API: it takes intents and answers reads; it never writes the ledger."""
