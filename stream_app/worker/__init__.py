"""The loop around the processor: partitions, turns, checkpoints, recovery. Faust and aiokafka live here.

`pipeline` is the loop. `ownership` handles partitions that are assigned and revoked, `checkpoints` makes progress
durable, `watches` holds the periodic checks. May import everything except `agents`, `commands` and `lab`.
"""
