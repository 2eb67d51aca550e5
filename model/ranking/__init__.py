"""The most probable next items of each user: candidates, scores, the exact reference, the same on a GPU."""
