"""What a user sees of fastce before the first call: names, help and types."""

import inspect
import pydoc
import typing

import pytest

import fastce

OVERLOADED = [name for name in fastce.__all__ if typing.get_overloads(inspect.unwrap(getattr(fastce, name)))]
FUNCTIONS = [name for name in fastce.__all__ if "reduction" in inspect.signature(getattr(fastce, name)).parameters]


def parameters_of(overload):
    """Those of one of the types of a function, with the keys of its ``**options``."""
    parameters = dict(inspect.signature(overload).parameters)
    options = parameters.pop("options")
    (keys,) = typing.get_args(options.annotation)
    return {*parameters, *keys.__annotations__}


def test_every_function_with_a_reduction_is_typed_by_it():
    assert set(FUNCTIONS) <= set(OVERLOADED)
    assert len(FUNCTIONS) >= 20


@pytest.mark.parametrize("name", OVERLOADED)
def test_types_know_exactly_the_parameters_of_the_function(name):
    function = getattr(fastce, name)
    parameters = inspect.signature(function).parameters
    overloads = typing.get_overloads(inspect.unwrap(function))
    assert set().union(*map(parameters_of, overloads)) == set(parameters)
    for overload in overloads:
        for key, parameter in inspect.signature(overload).parameters.items():
            if key != "options":
                assert parameter.kind is parameters[key].kind or parameter.kind is parameter.KEYWORD_ONLY
                assert parameter.default in (parameters[key].default, parameter.empty)


def test_dir_lists_the_public_names_alone():
    assert dir(fastce) == sorted([*fastce.__all__, "__version__"])


def test_help_begins_with_the_public_names_and_has_the_docstrings_of_all():
    text = pydoc.plain(pydoc.render_doc(fastce))
    opening = text[: text.index("PACKAGE CONTENTS")]
    for name in fastce.__all__:
        assert f"`{name}`" in opening, name
        assert inspect.getdoc(getattr(fastce, name)).splitlines()[0] in text


def test_help_shows_the_choices():
    text = pydoc.plain(pydoc.render_doc(fastce.cross_entropy))
    assert "reduction: Literal['mean', 'sum', 'none'] = 'mean'" in text
    assert "logit_scale: float = 1.0" in text
