"""Everything that touches the stream: Kafka, the per-user state, the agents, the command line."""
