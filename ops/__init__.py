"""Running Ledgerline: embedded parts, the supervisor, the command line, benches. Nothing imports this package."""
