"""Per-user state: one row of fixed size for each user, changed by a compiled kernel, stored in a changelog.

Pure and in memory: the worker reads and writes the changelog topic. How long the windows are says
`model/data/windows.py`, `windows` makes buckets of them. May import `contract`, `kernels`, the errors of
`kafka`, and the model through `model.serving.api`. Must not know Kafka clients, Faust, or rules.
"""
