"""`Batches`: data batch by batch, for passes that Keras does not make."""

import numpy as np
import pytest

from keras_e2e.utils.data import Batches


def sizes(**arguments):
    return [len(x) for x, _, _ in Batches(np.ones((70, 2)), np.ones(70), **arguments)]


def test_the_batch_size_is_that_of_keras_unless_given():
    assert sizes() == sizes(batch_size=None) == [32, 32, 6]
    assert sizes(batch_size=np.int64(40)) == [40, 30]


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "many", True])
def test_a_batch_size_that_is_not_a_positive_integer_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"evaluate_modules: batch_size={batch_size!r}"):
        sizes(batch_size=batch_size)
