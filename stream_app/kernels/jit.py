"""How the kernels of the stream processor are compiled: as those of the model, but sums keep their order."""

from model.kernels.jit import cached_jit

jit = cached_jit()
