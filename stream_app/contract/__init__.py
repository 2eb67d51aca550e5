"""What is on the wire: topics, events, outputs, headers, and the columns that hold them in memory.

Pure data. May import `kernels` only. Knows nothing of clients, of state, or of the model.
"""
