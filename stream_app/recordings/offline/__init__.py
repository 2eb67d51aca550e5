"""Runs the worker's own processor on a recording, without a broker, for `run`, training and evaluation.

May import `processing`. Must not know Faust or aiokafka.
"""
