"""Bytes of records to columns of events, and a reason for each record that is not an event.

`json_scanner` and `event_filler` are compiled and decode all ordinary records; `decoder` decodes the others one by
one, and `dead_letter_texts` says what is wrong with a record. May import `contract` and `kernels`. Knows nothing of
Kafka clients or of state.
"""
