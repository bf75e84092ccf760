"""recall_at_k on a device: the tests of the CPU's by way of the simulator."""

import numpy as np
import pytest
import scipy.sparse
import test_recall
from test_recall import (  # noqa: F401  (tests)
    test_a_query_with_nan_is_counted_and_finds_nothing,
    test_cosine_similarities_do_not_depend_on_lengths,
    test_equal_keys_come_in_their_order,
    test_panels_of_any_number_give_the_same_ranks,
    test_products_that_float32_does_not_hold,
    test_queries_that_are_not_counted,
    test_ranks_are_those_of_a_stable_sort,
    test_stored_zeros_are_no_positives_and_negative_numbers_are,
)

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_recall  # for the fixtures
pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")


@pytest.mark.parametrize("budget", [1, 1 << 28])
def test_the_best_of_several_positives_counts(rng, budget):
    CHECKS.test_the_best_of_several_positives_counts(rng, "csr", budget)


WRONG = [case[2:] for case in CHECKS.test_wrong_arguments.pytestmark[0].args[1]]


@pytest.mark.parametrize(("arguments", "options"), WRONG)
def test_wrong_arguments_are_refused_in_the_words_of_the_cpu(arguments, options):
    with pytest.raises((TypeError, ValueError, IndexError)) as expected:
        fastce.recall_at_k(*arguments, **options)
    there = [value if value is None or np.ndim(value) != 2 or not hasattr(value, "tocsr") else
             scipy.sparse.csr_array(value) for value in arguments]  # fmt: skip
    with pytest.raises(expected.type) as error:
        CHECKS.fastce.recall_at_k(*there, **options)
    if "complex" not in str(expected.value):
        assert str(error.value) == str(expected.value)
