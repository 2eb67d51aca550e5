"""Runs the worker's own processor on a recording, without a broker, for `run`, training and evaluation.

It may import `processing`, and must not know Faust or aiokafka.
"""
