"""Recorded streams: the `*.stream` file format, and its two ways from and to Kafka.

`layout` and `recording` know the file alone, `partitioner` is Kafka's hash of a key, `pacing` says when a
record is due, `capture` reads topics into a file, `publish` sends a file to topics; `kafka` names the last
two for others. Nothing here looks inside a value.
"""
