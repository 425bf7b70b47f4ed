"""The seeded load of a chaos run: API clients that retry every intent, and poison messages sent directly to Kafka."""

from tools.chaos.load.load import Load, LoadError

__all__ = ["Load", "LoadError"]
