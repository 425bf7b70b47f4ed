"""The developers' tools: bench, chaos with its oracle, load, and the list of third-party components."""
