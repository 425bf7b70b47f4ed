"""Everything that writes to Kafka: intents, the relay, encoding, importers."""
