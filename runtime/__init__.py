"""What every process needs, without any rule about money: settings, secrets, Kafka, logs, metrics, traces."""
