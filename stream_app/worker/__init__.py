"""The loop around the processor: partitions, turns, checkpoints, recovery. Faust and aiokafka live here.

`pipeline` is the loop, and its `on_assigned` and `on_revoked` answer a rebalance: `ownership` takes partitions on and
lets them go, `checkpoints` makes progress durable, also at a revoke. `watches` is what is looked at now and then. May
import every room below it (not `agents`, `commands`, `lab`) except `recordings`, which it does not need.
"""
