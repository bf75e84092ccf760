"""The public losses and what they have for themselves, a module each."""
