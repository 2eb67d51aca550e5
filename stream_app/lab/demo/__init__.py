"""The parts of `foreclick demo`, which runs the whole product on this machine, from history to live predictions.

`plan` says what is run, `traffic` makes it, `training` keeps the model, `processes` holds what was started, `truth`
and `measures` are the pure judges, `watch` feeds them from Kafka, `live` runs the replay, `view` and `summary` show
it, `journey` takes the Complete Journey in place of a made-up shop. May touch the folder `demo` in the data folder,
ports of 127.0.0.1, and the processes that it starts.
"""
