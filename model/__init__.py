"""Everything that learns: features, vocabulary, network, training, evaluation, runtime.

Knows nothing of Kafka: data come as the columns of `model.interactions`, live events as the columns of
`model.runtime.StepBatch`. The stream processor imports `model.runtime` only; commands import the rest.
"""
