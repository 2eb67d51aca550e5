"""Bytes of records to columns of events, and a reason for each record that is not an event.

`json_scanner` and `event_filler` are the compiled way for all ordinary records, `decoder` takes the others one by
one. May import `contract` and `kernels`. Knows nothing of Kafka clients or of state.
"""
