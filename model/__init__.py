"""Everything that learns. Rooms from the ground up: data, kernels, network, ranking, artifact, serving, evaluation,
training; each may import those before it.

This package knows nothing of Kafka. Other code uses it through two doors: `model.serving.api` to run a model,
`model.training.api` to make and judge one (and `model.training.settings`, which imports nothing).
"""
