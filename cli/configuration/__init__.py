"""What can be wrong with a configuration, found before it does harm: `ledgerline config check`."""
