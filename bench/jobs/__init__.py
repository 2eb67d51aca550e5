"""The jobs of the comparison with other engines, as workers: `foreclick bench job j1` and `j2`.

A job takes BROKER (host:port), IN and OUT (topics), RID (an id of the run, used as the consumer group) and STATE (a
folder) from the environment and runs until SIGTERM. It uses the product's own transport, state, checkpoints and
recovery; only the form of the events and of the outputs is the comparison's.
"""
