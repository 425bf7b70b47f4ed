"""Faults, one module for each kind; catalog.py has the list."""
