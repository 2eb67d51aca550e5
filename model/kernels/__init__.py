"""How kernels are compiled, vectorised mathematics and the helper thread, for the compiled code of other rooms."""
