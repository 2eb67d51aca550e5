"""The worker's own processor over a recording, without a broker: for `run`, training and evaluation.

May import `processing`. Must not know Faust or aiokafka.
"""
