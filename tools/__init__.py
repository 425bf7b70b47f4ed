"""The developers' harness: bench, chaos with its oracle, load, the list of what is carried."""
