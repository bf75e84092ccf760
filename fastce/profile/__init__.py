"""What `fastce profile` does: floors, times, memory and errors of the losses on one matrix, and of peers.

The way of a run: `inputs` or `pairs` give a `Problem`; `jobs`, `plain` and `peers` say what is computed on
it; `run` measures each job (`measure`) and holds its result against float64 (`accuracy`); `report` and
`figure` show what was found.
"""
