"""The Kubernetes manifests (kustomize), and the program that generates one of them: the Prometheus rules."""
