"""Products of features, a part at a time: a matrix that never exists."""
