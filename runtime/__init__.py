"""What every process needs and what knows nothing of money: settings, secrets, Kafka, logs, metrics, traces."""
