"""Recorded streams (`*.stream`): the file format, and how records get from Kafka to a file and back.

`file_format` and `recording` know only the file, `capture` writes topics to a file, `publish` sends a file to topics,
`importers` makes files of public data sets, `offline` runs the processor over a file. Only `offline` knows the
content of a value.
"""
