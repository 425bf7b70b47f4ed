"""Figures of speed and memory, each measured in the same run as its baseline: `make bench`.

The machines are shared and noisy, so the ratio to the baseline is judged; rates are printed only for orientation.
"""
