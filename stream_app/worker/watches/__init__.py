"""What a worker checks and reports from time to time: topics, sizes, positions, the model, a log line per minute."""
