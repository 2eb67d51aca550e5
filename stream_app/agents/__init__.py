"""What happens to events: the engine (pure, one thread), and the agents and the pipeline that drive it."""
