"""The same two jobs on Foreclick and on other stream engines, with one broker and one checker.

Start with `compare.py` (`foreclick bench peers`). `generate.py` makes the input and the expected results,
`systems.py` lists the engines, `environments.py` and `java.py` install them, `runner.py` runs one alone and measures
it, `check.py` checks its outputs, `report.py` and `plot.py` show the result. The jobs are in
`apps/` (Python) and `java/`.

This code may touch the user's cache folder (the engines, once), the folder of results it is given, ports of
127.0.0.1, and the processes that it starts.
"""
