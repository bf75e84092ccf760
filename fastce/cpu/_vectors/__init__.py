"""The vector machine, which knows no loss: vectors, exp and log, memory, compiler. Its source is looked at first."""

from fastce.cpu._vectors import sources as sources
