"""What `fastce profile` does: floors, times, memory and errors of the functions on one matrix, and of peers.

The way of a run: `command` reads the options; `inputs` or `pairs` give a `problem`; each function makes some `jobs`,
which the engines of `peers` turn into `work`; `run` measures that in turns with its `floor` (`measure`) and holds its
results against the `reference` (`accuracy`); `report`, `text` and `figure` show what was found. Losses from features go
by `features_problem`, `peers.dense`, `features` and `features_report`. The benchmarks use the same but for the report.
"""
