"""What `fastce profile` does: floors, times, memory and errors of the functions on one matrix, and of peers.

The way of a run: `command` reads the options; `inputs` or `pairs` give a `Problem`; `ours`, `plain` and `peers` (these
through `library`) make its `jobs`; `run` measures them in turns (`measure`) and holds their results against float64
(`accuracy`); `report`, `text` and `figure` show what was found. Losses from features go by `features_problem`, `dense`,
`features` and `features_report`.
"""
