"""Write components/monitoring/prometheus-rules.yaml: `python -m ops.kubernetes`, after ops/prometheus/rules changed.

Kustomize reads no file outside the folder that it builds. So the rules are there a second time, in the form that the
Prometheus operator reads. A test fails if the two copies differ.
"""

import sys
from pathlib import Path
from typing import Final

import yaml

from runtime.settings import REPOSITORY_ROOT

RULES: Final = REPOSITORY_ROOT / "ops" / "prometheus" / "rules"
MANIFEST: Final = Path(__file__).resolve().parent / "components" / "monitoring" / "prometheus-rules.yaml"
_HEAD: Final = "# Made of ops/prometheus/rules by `python -m ops.kubernetes`: change those.\n"


def manifest() -> str:
    """Return the rules as PrometheusRule resources, one for each file."""
    documents = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"ledgerline-{path.stem}"},
            "spec": yaml.safe_load(path.read_text()),
        }
        for path in sorted(RULES.glob("*.yml"))
    ]
    return _HEAD + yaml.safe_dump_all(documents, sort_keys=False, width=2**16)


if __name__ == "__main__":
    MANIFEST.write_text(manifest())
    sys.stdout.write(f"wrote {MANIFEST.relative_to(REPOSITORY_ROOT)}\n")
