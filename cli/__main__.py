"""`python -m cli` is `ledgerline`."""

from cli import main

main()
