"""What deploys Ledgerline and watches it: embedded parts, Prometheus, Grafana, Kubernetes, Terraform, runbooks."""
