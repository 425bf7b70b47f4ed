"""All that deploys and monitors Ledgerline: embedded parts, Prometheus, Grafana, Kubernetes, Terraform, runbooks."""
