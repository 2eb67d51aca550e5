"""Recorded streams (`*.stream`): the file format, and its ways from and to Kafka.

`file_format` and `recording` know only the file, `capture` writes topics to a file, `publish` sends a file to topics,
`importers` makes files of public data sets, `offline` runs the processor over a file. Only `offline` knows what is in
a value.
"""
