"""Kubernetes' manifests (kustomize), and what makes the one of them that is made: the Prometheus rules."""
