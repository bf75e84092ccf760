"""A matrix of the user's own, measured in place of the record's: pytest bench/bench_record.py --logits FILE."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fastce.profile.inputs import from_file
from fastce.profile.problem import InputError


@cache
def own_matrix(config: pytest.Config) -> np.ndarray | None:
    """What --logits gives, as `fastce profile --input` takes it; None where nothing is given."""
    path: Path | None = config.getoption("logits", None)
    if path is None:
        return None
    try:
        return from_file(path, None)[0]
    except InputError as error:
        raise pytest.UsageError(str(error).replace("--input", "--logits", 1)) from None
