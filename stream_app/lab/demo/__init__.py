"""The parts of `foreclick demo`, which runs the whole product on this machine, from history to live predictions.

`plan` says what to run, `traffic` and `journey` make the records, `training` makes the model, `processes` starts and
stops broker and worker. `truth`, `measures` and `verdict` check the outputs without I/O, `watch` reads these outputs
from Kafka, `live` runs the replay, and `steps`, `view` and `summary` show the results. This code may touch the folder
`demo` in the data folder, ports of 127.0.0.1, and the processes that it starts.
"""
