"""What a worker looks at now and then, and says: topics, sizes, positions, the model, a line a minute."""
