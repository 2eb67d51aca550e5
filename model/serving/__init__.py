"""A trained model on live events: micro-batches in, hidden states kept on the device, answers out.

Must not import training or evaluation. `api` is its door for other packages.
"""
