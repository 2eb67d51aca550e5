"""What the compiled code of other rooms shares: how it is compiled, vectorised functions and the helper thread."""
