"""Fenced and transactional producers: one for each owned partition, on Kafka's own protocol.

May import `worker.transport`, which imports its type `Member`, and `kafka`. Knows nothing of events or state.
"""
