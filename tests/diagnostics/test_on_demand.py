"""What is measured on demand leaves no trace, and refuses what it cannot measure."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.diagnostics import (
    CKA,
    FrozenUtility,
    JacobianSingularValues,
    OnDemand,
    ResetUtility,
)
from tests.conformance import cases, models
from tests.diagnostics.on_backends import slow_on_jax

X, Y = models.inputs("rich", 24), models.targets("rich", 24)


def compiled(base, cuts=("first",)):
    model = e2e.modularize(base, list(cuts), training_mode="local")
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    return model


def trained(name):
    model = compiled(models.build(name))
    began = model.get_weights()
    model.fit(X, Y, verbose=0)
    return model, began


@pytest.fixture(scope="module")
def graph():
    """A model with moving statistics, dropout and penalties, and its first weights."""
    return trained("rich")


@pytest.fixture(scope="module")
def code():
    """The same in a subclassed model."""
    return trained("subclassed")


def everything(model):
    """Values of all variables, and what else a measurement might leave behind."""
    variables = [*model.variables, *model.optimizer.variables]
    flags = [variable.trainable for variable in model.weights]
    return cases.values(variables), flags, model.training_mode, model.history


def unchanged(before, after):
    assert models.same(before[0], after[0])
    assert before[1:3] == after[1:3]
    assert before[3] is after[3]


@slow_on_jax
@pytest.mark.parametrize("name", cases.ON_DEMAND)
def test_a_model_is_as_it_was_and_trains_on(graph, name):
    model, began = graph
    quantity = cases.ON_DEMAND[name](began)
    before = everything(model)
    found = quantity.measure(model, X, Y)
    unchanged(before, everything(model))
    assert tuple(found) == quantity.columns
    for values in found.values():
        assert list(values) == [module.name for module in model.modules]
    # Steps that were traced for a frozen module must not serve now.
    kernels = [v for v in model.trainable_variables if "kernel" in v.path]
    old = cases.values(kernels)
    model.fit(X, Y, verbose=0)
    for earlier, now in zip(old, cases.values(kernels), strict=True):
        assert not np.array_equal(earlier, now)


@slow_on_jax
@pytest.mark.parametrize("name", cases.ON_DEMAND)
def test_so_is_a_subclassed_one_and_the_numbers_are_the_same_again(code, name):
    model, began = code
    before = everything(model)
    first, again = (cases.ON_DEMAND[name](began).measure(model, X, Y) for _ in range(2))
    for column, values in first.items():
        assert values == pytest.approx(again[column], nan_ok=True)
    unchanged(before, everything(model))


class Fails(OnDemand):
    name, formula = "fails", "none"

    def compute(self, model, x, y, sample_weight):
        model.set_weights([0 * w for w in model.get_weights()])
        model.training_mode = "end_to_end"
        raise KeyError("fails")


@pytest.fixture(scope="module")
def small():
    return compiled(models.build("dense"), models.CUTS)


def test_what_fails_is_put_back_too(small):
    before = small.get_weights()
    with pytest.raises(KeyError, match="fails"):
        Fails().measure(small, X)
    assert models.same(before, small.get_weights())
    assert small.training_mode.name == "local"


def test_the_modules_of_a_subclassed_model_are_found_first():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(3, name="a"), layers.Dense(1, name="b")

        def call(self, x):
            return self.b(self.a(x))

    model = e2e.modularize(Two(), ["a"])
    assert not model.modules
    found = JacobianSingularValues(1, 1).measure(model, X)
    assert list(found["jacobian_largest"]) == ["a", "outputs"]


@pytest.mark.parametrize(
    ("quantity", "data", "error", "message"),
    [
        (ResetUtility(), (X,), ValueError, "targets"),
        (FrozenUtility(), (X,), ValueError, "targets"),
        (ResetUtility(), (X, Y[:-1]), ValueError, "lengths"),
        (ResetUtility(), (iter([X]), Y), ValueError, "expected arrays"),
        (JacobianSingularValues(), (iter([X]),), ValueError, "arrays"),
        (FrozenUtility(held_out=0.01), (X, Y), ValueError, "held_out=0"),
        (ResetUtility([X]), (X, Y), ValueError, "1 weights; 'dense' has"),
        (FrozenUtility(start=[X]), (X, Y), ValueError, "get_weights"),
        (CKA([X]), (X,), ValueError, "get_weights"),
        (CKA([]), (X[:3],), ValueError, "found 3 examples; expected at least 4"),
    ],
)
def test_what_cannot_be_measured_is_refused(small, quantity, data, error, message):
    before = small.get_weights()
    with pytest.raises(error, match=message):
        quantity.measure(small, *data)
    assert models.same(before, small.get_weights())


def test_weights_of_another_shape_are_named(small):
    start = small.get_weights()
    start[0] = start[0].T
    with pytest.raises(ValueError, match=r"\(5, 6\) for 'dense/first/kernel'"):
        ResetUtility(start).measure(small, X, Y)


def test_a_stock_model_and_one_without_a_loss_are_refused():
    base = models.build("dense")
    with pytest.raises(TypeError, match="reset_utility needs a modular model"):
        ResetUtility().measure(base, X, Y)
    with pytest.raises(ValueError, match="not compiled"):
        ResetUtility().measure(e2e.modularize(base, ["first"]), X, Y)


def test_a_reference_with_other_modules_is_refused(small):
    other = e2e.modularize(models.build("dense"), ["second"])
    with pytest.raises(ValueError, match="expected the same names"):
        CKA(other).measure(small, X)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ResetUtility("zeros"), ValueError, "start='zeros'"),
        (lambda: ResetUtility("present"), ValueError, "start='present'"),
        (lambda: FrozenUtility(start=None), ValueError, "start=None"),
        (lambda: FrozenUtility(0), ValueError, "steps=0"),
        (lambda: FrozenUtility(batch_size=True), ValueError, "batch_size=True"),
        (lambda: FrozenUtility(held_out=1), ValueError, "held_out=1"),
        (lambda: JacobianSingularValues(0), ValueError, "num_directions=0"),
        (
            lambda: JacobianSingularValues(num_iterations=2.0),
            ValueError,
            "num_iterations=2",
        ),
        (lambda: JacobianSingularValues(num_examples=-1), ValueError, "num_examples=-1"),
        (lambda: CKA("first"), TypeError, "reference is a str"),
        (lambda: CKA([], batch_size=3), ValueError, "at least 4"),
    ],
)
def test_a_bad_argument_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_integers_of_numpy_are_integers():
    three = np.int64(3)
    assert type(JacobianSingularValues(num_directions=three).num_directions) is int
    assert type(FrozenUtility(steps=three, batch_size=three).batch_size) is int
    assert type(CKA([], batch_size=np.int32(5)).batch_size) is int


@pytest.mark.parametrize("make", [ResetUtility, FrozenUtility, lambda **k: CKA([], **k)])
def test_no_batch_size_means_32(make):
    assert make(batch_size=None).batch_size == make().batch_size == 32


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (1.0, TypeError, "returned a float; expected a dict"),
        ({"frist": 1.0}, ValueError, r"\['frist'\].* Did you mean 'first'"),
        ({"first": np.ones(2)}, ValueError, "for 'first'; expected a number"),
        ({"first": (1.0, 2.0)}, ValueError, "for 'first'; expected a number"),
    ],
)
def test_what_compute_returns_is_checked(small, returned, error, message):
    class Wrong(OnDemand):
        name, formula = "wrong", "none"

        def compute(self, model, x, y, sample_weight):
            return returned

    with pytest.raises(error, match=rf"Wrong\.compute .*{message}"):
        Wrong().measure(small, X, Y)
