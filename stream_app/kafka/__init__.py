"""Kafka without Faust: topics and their checks, security, record batches.

May import `contract`, `settings` and `kernels`. Knows nothing of events' meaning, of state, or of Faust: what a
running worker does with its clients is in `worker.transport` and `worker.producers`.
"""
