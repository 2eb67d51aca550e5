"""The lowest floor of compiled code: memory, hashes and checksums, for numba functions of all other rooms.

Imports nothing of this project but how kernels are compiled, `model.kernels.jit`.
"""
