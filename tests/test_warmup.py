"""What is compiled ahead of the first call."""

import pytest
from public_calls import CALLS

import fastce
from fastce.cpu._vectors.compiler import Kernel

COMPILED = sorted(set(CALLS) - {"deferred", "set_num_threads", "threads", "warmup"})


def refuse(kernel, dtype):
    raise AssertionError(f"{kernel.function.__name__} is compiled for {dtype}")


@pytest.mark.parametrize("name", COMPILED)
def test_a_plain_call_of_any_function_compiles_nothing_after_its_warmup(name, monkeypatch):
    fastce.warmup("float64", functions=[name])
    monkeypatch.setattr(Kernel, "_compile", refuse)
    getattr(fastce, name)(**CALLS[name])


def test_all_functions_are_warmed_up_where_none_is_named(monkeypatch):
    fastce.warmup("float64")
    monkeypatch.setattr(Kernel, "_compile", refuse)
    fastce.warmup("float64", functions=COMPILED)
