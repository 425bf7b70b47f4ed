"""Figures of speed and memory, each measured in one run beside its baseline: `make bench`.

These machines are shared and noisy, so the ratio is the figure; rates are printed for orientation.
"""
