"""The jobs of the comparison with other engines, as workers: `foreclick bench job j1` and `j2`.

A job reads BROKER (host:port), IN and OUT (topics), RID (an id of the run, used as the consumer group) and STATE (a
folder) from the environment and runs until SIGTERM. It uses the product's transport, state, checkpoints and recovery;
only events and outputs have the format of the comparison.
"""
