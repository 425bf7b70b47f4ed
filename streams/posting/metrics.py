"""Metrics of posting; docs/METRICS.md documents each."""

from typing import Final

from prometheus_client import Counter

OUTCOMES: Final = Counter(
    "ledgerline_posting_outcomes", "Journal rows that this worker committed.", ["outcome", "reason"]
)
