"""Terraform for AWS, and the arithmetic of what it costs (costs.py)."""
