"""Metrics of audit; docs/METRICS.md documents each. streams/proof/metrics.py counts breaks."""

from typing import Final

from prometheus_client import Counter, Gauge

RECORDS: Final = Counter("ledgerline_audited_records", "Journal records whose place in their chain audit has checked.")
SWEPT: Final = Counter("ledgerline_audit_swept_rows", "Stored journal rows that sweeps have hashed again.")
SWEEP_SECONDS: Final = Gauge("ledgerline_audit_sweep_seconds", "Duration of the last complete sweep.")
LAG_RECORDS: Final = Gauge("ledgerline_audit_lag_records", "Journal rows that audit has not seen.", ["lane"])
VERIFIED: Final = Gauge(
    "ledgerline_audit_verified_seq", "The lane's chain is verified up to, but without, this seq.", ["lane"]
)
UNSIGNED: Final = Gauge(
    "ledgerline_audit_unsigned_records", "Verified journal records that no checkpoint covers yet.", ["lane"]
)
CHECKPOINTS: Final = Counter("ledgerline_audit_checkpoints", "Checkpoints that this worker has signed.")
CHECKPOINT_TIME: Final = Gauge(
    "ledgerline_audit_checkpoint_timestamp_seconds", "When the newest checkpoint was signed, in seconds since 1970."
)
WITNESS_FAILURES: Final = Counter(
    "ledgerline_audit_witness_failures", "Failures to send checkpoints to a witness. They are sent later."
)
# Without this, the gauge would read 1970 before the first checkpoint.
CHECKPOINT_TIME.set(float("nan"))
