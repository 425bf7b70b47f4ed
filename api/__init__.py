"""HTTP in: takes intents, answers from views; never writes the ledger."""
