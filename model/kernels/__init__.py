"""Vectorised mathematics and the helper thread, for the compiled code of the other rooms."""
