"""Grafana's dashboards as code: it writes the JSON files that Grafana is provisioned with.

The code uses Grafana's own Foundation SDK, whose types follow the schema that Grafana loads. `make dashboards` writes
ops/grafana/dashboards, and a test fails if those files differ from this code.
"""
