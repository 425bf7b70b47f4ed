"""The real Prometheus beside a ledger, with the rules of ops/prometheus: `ledgerline observe`, and the tests.

| module | what it does |
|---|---|
| `programs` | Prometheus and the exporters: those of the machine, else Debian's packages unpacked into the cache |
| `configuration` | what Prometheus reads: ops/prometheus with the targets of one ledger, in a test hastened |
| `prometheus_part` | the server: start, stop, query, alerts, targets |
| `exporters` | what speaks for Postgres and for the machine |
| `ledger_targets` | who is scraped of a ledger that `ledgerline up` started |
| `observatory` | all of it together |
"""
