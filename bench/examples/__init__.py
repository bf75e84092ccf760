"""Examples: each solves one problem, is run by the tests, and draws its picture here."""
