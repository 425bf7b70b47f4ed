"""`python -m ops.cli` is `ledgerline`."""

from ops.cli import main

main()
