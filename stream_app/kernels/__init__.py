"""The basis of all compiled code: memory, hashes and checksums, for the numba functions of all other rooms.

Imports nothing of this project but how kernels are compiled, `model.kernels.jit`.
"""
