"""Kafka without Faust: topics and their checks, security, record batches.

May import `contract`, `settings` and `ops`. Knows nothing of Faust, of state, or of what events mean: the clients of
a running worker are in `worker.transport` and `worker.transactions`.
"""
