"""Quantities of all modules at once: the same numbers as of each module alone."""

import numpy as np
import pytest
from keras import ops

from keras_e2e.diagnostics import (
    Descent,
    GradientSNR,
    GradRMS,
    ModuleView,
    SignalCoherence,
    SignalGain,
    UpdateRatio,
)
from keras_e2e.diagnostics.joint import WIDTH, Rows, sums_of_squares

RNG = np.random.default_rng(0)
SHAPES = [[(300, 9), (9,)], [(4, 3)], [(70_000,), (3,)], [(2, 2)]]
QUANTITIES = [
    GradRMS(),
    UpdateRatio(),
    GradientSNR(),
    GradientSNR(0.5, entries=100),
    Descent(),
    Descent(entries=100),
    SignalGain(),
    SignalCoherence(),
]


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def view(own, *, frozen=False, infinite=False):
    gradients = [some(*shape) for shape in own]
    if infinite:
        gradients[0].flat[0] = np.inf
    return ModuleView(
        name="m",
        variables=[] if frozen else [some(*shape) for shape in own],
        gradients=[None] * len(own) if frozen else gradients,
        updates=[None] * len(own) if frozen else [some(*shape) for shape in own],
        loss=None,
        activation=None,
        signal=None if frozen else some(8, *own[0][-1:]),
        input_signal=None if infinite else some(8, 5),
        total=lambda tensor: tensor,
        shapes=own,
    )


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda q: f"{q.name}-{vars(q)}")
def test_all_modules_at_once_are_measured_like_each_alone(quantity):
    together = [ops.zeros(s) for s in quantity.init_states(SHAPES)]
    alone = [[ops.zeros(s) for s in quantity.init_state(own)] for own in SHAPES]
    for step in range(5):
        views = [
            view(own, frozen=place == 3, infinite=place == 1 and step == 2)
            for place, own in enumerate(SHAPES)
        ]
        columns, applies, together = quantity.compute_all(views, together)
        for place, each in enumerate(views):
            expected, alone[place] = quantity.compute(each, alone[place])
            assert applies[place] == (expected is not None)
            if expected is None:
                continue
            found = [float(column[place]) for column in columns]
            expected = expected if isinstance(expected, tuple) else (expected,)
            np.testing.assert_allclose(found, [*map(float, expected)], rtol=2e-5)


def test_what_applies_to_no_module_keeps_its_state():
    for quantity in QUANTITIES:
        state = [ops.ones(s) for s in quantity.init_states(SHAPES)]
        views = [view(own, frozen=True) for own in SHAPES]
        columns, applies, following = quantity.compute_all(views, state)
        assert columns is None
        assert not any(applies)
        assert following is state


def test_rows_begin_anew_with_each_module():
    tensors = [[some(*shape) for shape in own] for own in SHAPES]
    rows = Rows(SHAPES, entries=10**6)
    joined = np.asarray(rows.join(tensors))
    assert joined.shape == rows.shape == (11 + 1 + 274 + 1, WIDTH)
    np.testing.assert_array_equal(joined[11, :12], tensors[1][0].ravel())
    assert not joined[11, 12:].any()
    (sums,) = rows.sums([joined])
    expected = [sum(t.sum(dtype="float64") for t in own) for own in tensors]
    np.testing.assert_allclose(sums, expected, rtol=1e-4)


def test_squares_of_large_variables_and_of_none():
    tensors = [[some(*shape) for shape in own] for own in SHAPES]
    tensors[0][1] = None
    expected = [sum((t**2).sum() for t in own if t is not None) for own in tensors]
    np.testing.assert_allclose(sums_of_squares(tensors), expected, rtol=1e-5)
    large = [[some(70_000)], []]
    expected = [(large[0][0] ** 2).sum(), 0.0]
    np.testing.assert_allclose(sums_of_squares(large), expected, rtol=1e-5)
