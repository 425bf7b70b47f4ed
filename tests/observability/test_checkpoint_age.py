"""The dashboard tile of the checkpoint's age must not alarm after an idle night, and must alarm if audit is stuck."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from ops.grafana.money import CHECKPOINT_AGE
from ops.observing.programs import PROMTOOL, Programs
from tests.observability.conftest import CACHE

SIGNED: Final = 'ledgerline_audit_checkpoint_timestamp_seconds{job="ledgerline"}'
UNSIGNED: Final = 'ledgerline_audit_unsigned_records{job="ledgerline",lane="0"}'
BEHIND: Final = 'ledgerline_audit_lag_records{job="ledgerline",lane="0"}'

# Samples every 10 s in promtool's notation: the time of the newest checkpoint, the records not signed yet, the records
# not verified yet. Then the moment of the query, and the answer (None for no answer). Audit reports NaN for a time that
# never was. promtool cannot write NaN, so these cases use 0: neither is above 0.
CASES: Final = {
    "idle for an hour": ("5x400", "0x400", "0x400", 3000, 0),
    "something new after an idle hour": ("5x400", "0x300 7x100", "0x400", 3030, 0),
    "in step": ("5x29 295x9", "4x40", "0x40", 315, 20),
    "nothing is signed": ("5x400", "0x300 7x100", "0x400", 3300, 3295),
    "nothing is verified": ("5x400", "0x400", "9x400", 600, 595),
    "nothing was ever signed": ("0x400", "7x400", "0x400", 600, None),
    "audit is gone": ("5x10 stale", "3x10 stale", "0x10 stale", 130, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_age_of_the_checkpoint_counts_when_it_should(case: str, tmp_path: Path) -> None:
    signed, unsigned, behind, moment, answer = CASES[case]
    series = [(SIGNED, signed), (UNSIGNED, unsigned), (BEHIND, behind)]
    expected = [] if answer is None else [{"labels": "{}", "value": answer}]
    test: dict[str, Any] = {
        "interval": "10s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [{"expr": CHECKPOINT_AGE, "eval_time": f"{moment}s", "exp_samples": expected}],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [], "tests": [test]}))
    promtool = Programs(CACHE, lambda _message: None).find(PROMTOOL)
    told = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
