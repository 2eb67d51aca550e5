"""Operations: logs, metrics, health, and the HTTP pages of a worker with their access control.

Metrics are declared in `metrics` and fed by `worker.telemetry`. May import `contract` and `settings`. Knows nothing
of Kafka clients, of state, or of the model.
"""
