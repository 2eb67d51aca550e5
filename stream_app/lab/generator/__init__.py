"""Synthetic shop traffic by seed: a made-up shop whose visitors follow rules that a model can learn.

`catalogue` and `people` define the shop and its users, `sessions` and `abuse` what the users do, `trouble` what goes
wrong on the way to Kafka. `encoding` makes the bytes, `stream` makes a recording and its labels. The output depends
only on `GeneratorSettings`: no clock, no other source of randomness, and no file except in `stream.write`.
"""

from stream_app.lab.generator.settings import GeneratorSettings
from stream_app.lab.generator.stream import Block, Label, Summary, generate, read_labels, write

__all__ = ["Block", "GeneratorSettings", "Label", "Summary", "generate", "read_labels", "write"]
