"""Synthetic shop traffic by seed: a made-up shop whose visitors follow rules that a model can learn.

`catalogue` and `people` are the shop and its users, `sessions` and `abuse` what they do, `trouble` what goes
wrong on the way to Kafka, `encoding` the bytes, `stream` puts a recording and its labels together. All of it is a
function of `GeneratorSettings`: no clock, no randomness of its own, and no file but in `stream.write`.
"""

from stream_app.lab.generator.settings import GeneratorSettings
from stream_app.lab.generator.stream import Block, Label, Summary, generate, read_labels, write

__all__ = ["Block", "GeneratorSettings", "Label", "Summary", "generate", "read_labels", "write"]
