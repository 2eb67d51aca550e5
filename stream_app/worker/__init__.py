"""The loop around the processor: partitions, turns, checkpoints, recovery. Faust and aiokafka live here.

`pipeline` is the loop. `ownership` says what happens when partitions are assigned and revoked, `checkpoints` how
progress becomes durable, `watches` what is looked at now and then. May import everything but `agents`, `commands` and
`lab`.
"""
