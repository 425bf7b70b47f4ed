"""Everything that reads Kafka: the fenced consumer, decoding, and one module per agent."""
