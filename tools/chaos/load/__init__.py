"""The seeded load of a chaos run: clients of the API that give up on no intent, and poison straight to Kafka."""

from tools.chaos.load.load import Load, LoadError

__all__ = ["Load", "LoadError"]
