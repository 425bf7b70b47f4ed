"""The real Prometheus beside a ledger, with the rules of ops/prometheus: `ledgerline observe`, and the tests.

| module | what it does |
|---|---|
| `programs` | Prometheus and the exporters: those of the machine, else Debian's packages unpacked into the cache |
| `configuration` | Prometheus' files: ops/prometheus with the targets of one ledger, with shorter times in a test |
| `prometheus_part` | the server: start, stop, query, alerts, targets |
| `exporters` | the exporters of metrics for Postgres and for the machine |
| `ledger_targets` | the scrape targets of a ledger that `ledgerline up` started |
| `observatory` | Prometheus and the exporters together |
"""
