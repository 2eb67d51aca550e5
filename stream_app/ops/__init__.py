"""Operations: logs, metrics and health of a worker. Knows nothing of Kafka, Faust or the model."""
