"""The promises under XLA, on TensorFlow.

TensorFlow keeps whatever XLA has compiled for as long as the process lives, so these tests
have a process of their own: `test_processes.py` runs this file.
"""

import keras
import pytest

from . import cases, test_everywhere, test_switching
from . import test_end_to_end_is_stock as stock

EXACT = [setting for setting in stock.SETTINGS if setting.xla]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("setting", EXACT, ids=lambda s: s.name)
def test_end_to_end_is_stock(setting):
    plain = stock.train(setting, modular=False, jit_compile=True)
    stock.assert_same(plain, stock.train(setting, modular=True, jit_compile=True))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", test_switching.MODES[:2], ids=str)
def test_looking_changes_nothing(mode):
    # XLA sums the losses in another order where they are read one by one: the reported
    # loss, which nothing is trained by, may differ in the last digit.
    test_switching.assert_looking_changes_nothing(
        mode,
        logs_to=5e-7,
        optimizer=lambda: keras.optimizers.Adam(0.01, clipnorm=0.5),
        quantities=cases.quantities,  # compiling all of them takes too long
        jit_compile=True,
    )


def test_a_mode_is_traced_once_however_often_it_comes_back():
    steps = [(mode, test_switching.LEAN) for mode in test_switching.MODES]
    test_switching.assert_traced_once(steps, jit_compile=True)


def test_the_instrumented_step_is_traced_once():
    kinds = (test_switching.LEAN, test_switching.INSTRUMENTED)
    steps = [(mode, kind) for mode in test_switching.MODES[:2] for kind in kinds]
    make = cases.QUANTITIES["grad_rms"]
    test_switching.assert_traced_once(steps, lambda: [make()], jit_compile=True)


@pytest.mark.parametrize(
    # XLA draws other random numbers from the same seed.
    "case",
    [case for case in cases.COMPUTED if not case.draws],
    ids=lambda case: case.name,
)
def test_a_step_is_that_of_the_graph(case):
    graph, xla = (
        # XLA compiles once for each size of a batch: two full ones.
        test_everywhere.train(test_everywhere.compiled(case, way), case, first=16)[-1]
        for way in ("graph", "xla")
    )
    test_everywhere.assert_alike(xla, graph, "xla")


def test_further_passes_are_those_of_the_graph_and_the_last_batch_may_be_partial():
    case = cases.BY_NAME["prediction-conv1"]
    graph, xla = (
        test_everywhere.train(
            test_everywhere.compiled(case, way), case, quantities=cases.everything
        )[-1]
        for way in ("graph", "xla")
    )
    test_everywhere.assert_alike(xla, graph, "xla")
