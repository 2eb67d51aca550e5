"""The same two jobs on other stream engines, beside Foreclick, on one broker and under one checker.

`compare.py` is the way in (`foreclick bench peers`). `generate.py` makes the input and its truth, `systems.py` lists
the engines, `environments.py` and `java.py` install them, `runner.py` runs one alone and measures it, `check.py`
judges its outputs, `report.py` and `plot.py` show the result. The jobs are in `apps/` (Python) and `java/`.

May touch: the user's cache folder (the engines, once), the folder of results it is given, ports of 127.0.0.1, and the
processes it starts.
"""
