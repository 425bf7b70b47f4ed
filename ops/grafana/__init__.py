"""Grafana's dashboards as code: what an operator looks at, written to JSON that Grafana is provisioned with.

Built with Grafana's own Foundation SDK, whose types follow the schema that Grafana loads; `make dashboards` writes
ops/grafana/dashboards, and a test holds those files equal to this code.
"""
