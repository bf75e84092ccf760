"""FASTCE_BENCH=tiny makes every measurement a quick trial on few numbers: so CI runs them."""

import os

IS_TINY = os.environ.get("FASTCE_BENCH") == "tiny"
