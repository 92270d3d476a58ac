"""One boundary through several tensors at once."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.experiments import regimes

RANDOM = np.random.default_rng(0)


class Small(e2e.objectives.LocalObjective):
    """A loss that reads the activation alone."""

    def loss(self, activation, batch):
        return ops.square(activation)


def data(*shape):
    return RANDOM.normal(size=(8, *shape)).astype("float32")


def unet():
    x = inputs = keras.Input((8, 8, 1), name="x")
    skip = layers.Conv2D(3, 3, padding="same", activation="relu", name="skip1")(x)
    x = layers.MaxPooling2D(name="pool1")(skip)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="middle")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, name="up")(x)
    x = layers.Concatenate(name="cat")([x, skip])
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid", name="y")(x))


def dense_net():
    """Each layer takes what all before it return."""
    found = [
        layers.Dense(3, activation="tanh", name="d0")(inputs := keras.Input((5,), name="x"))
    ]
    for i in range(1, 4):
        x = found[0] if i == 1 else layers.Concatenate(name=f"cat{i}")(found)
        found.append(layers.Dense(3, activation="tanh", name=f"d{i}")(x))
    return keras.Model(inputs, layers.Dense(2, name="y")(layers.Concatenate()(found)))


def wide_and_deep():
    inputs = keras.Input((5,), name="x")
    wide = layers.Dense(2, name="wide")(inputs)
    deep = layers.Dense(4, activation="relu", name="hidden")(inputs)
    deep = layers.Dense(3, activation="relu", name="deep")(deep)
    deep2 = layers.Dense(2, name="deeper")(deep)
    x = layers.Concatenate(name="both")([wide, deep2, deep])
    return keras.Model(inputs, layers.Dense(2, name="y")(x))


def encoder_decoder():
    """Both embeddings have masks, and the decoder begins with the encoder's states."""
    source = keras.Input((4,), dtype="int32", name="x")
    target = keras.Input((3,), dtype="int32", name="x2")
    x = layers.Embedding(6, 3, mask_zero=True, name="source")(source)
    states = layers.LSTM(4, return_state=True, name="encoder")(x)[1:]
    x = layers.Embedding(6, 4, mask_zero=True, name="target")(target)
    x = layers.LSTM(4, return_sequences=True, name="decoder")(x, initial_state=states)
    return keras.Model([source, target], layers.Dense(2, name="y")(x))


TOKENS = [RANDOM.integers(1, 6, (8, n)).astype("int32") for n in (4, 3)]
TOKENS[0][:3, 2:] = TOKENS[1][2:5, 1:] = 0  # padding
# The model, its boundaries, data for it, and the places that the objective is given.
CASES = {
    "unet": (unet, ("skip1", "pool1"), data(8, 8, 1), data(8, 8, 1) > 0, (1,)),
    "dense_net": (dense_net, ("d0", "d1", "d2"), data(5), data(2), (2,)),
    "wide_and_deep": (wide_and_deep, ("wide", "deep"), data(5), data(2), (0, 1)),
    "encoder_decoder": (
        *(encoder_decoder, ("encoder", "target"), TOKENS, data(3, 2), (0, 1, 2)),
    ),
}
each_case = pytest.mark.parametrize("case", list(CASES))


def modular(case, **kwargs):
    keras.utils.set_random_seed(0)
    make, place, x, y, _ = CASES[case]
    base = make()
    model = e2e.modularize(base, [place], **kwargs)
    model.compile("adam", "mse", jit_compile=False)
    return base, model, x, y


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@each_case
def test_it_goes_by_the_last_name_and_returns_what_it_is_given(case):
    base, model, x, _ = modular(case)
    place, seen = CASES[case][1], CASES[case][4]
    boundary = model.boundaries[place[-1]]
    assert boundary.seen == seen
    assert_equal([base.predict(x, verbose=0)], [model.predict(x, verbose=0)])
    clone = keras.models.clone_model(model)
    assert clone.boundaries[place[-1]].seen == seen
    stripped = e2e.strip(model)
    assert [x.name for x in stripped.layers] == [x.name for x in base.layers]
    assert_equal([stripped.predict(x, verbose=0)], [base.predict(x, verbose=0)])


@each_case
def test_end_to_end_it_trains_as_stock_keras(case):
    base, model, x, y = modular(case)
    keras.utils.set_random_seed(0)
    stock = CASES[case][0]()
    stock.compile("adam", "mse", jit_compile=False)
    found = [m.fit(x, y, batch_size=4, shuffle=False, verbose=0) for m in (stock, model)]
    assert found[0].history == found[1].history
    assert_equal(stock.get_weights(), base.get_weights())


@pytest.mark.parametrize(
    ("case", "jit_compile"), [*((case, False) for case in CASES), ("wide_and_deep", True)]
)
def test_no_gradient_crosses_through_any_of_the_tensors(case, jit_compile):
    """What is behind the boundary has no part in what trains the module before it."""
    found = []
    for factor in (1.0, 100.0):
        _, model, x, y = modular(case, objective=Small(), training_mode="local")
        model.compile("adam", "mse", loss_weights=factor, jit_compile=jit_compile)
        start = model.get_weights()
        model.fit(x, y * factor, batch_size=4, shuffle=False, verbose=0)
        assert all((a != b).any() for a, b in zip(start, model.get_weights(), strict=True))
        found.append([v.numpy() for v in model.modules[0].all_variables])
    assert_equal(*found)


@each_case
def test_a_module_is_trained_as_its_early_exit_model(case):
    _, model, x, y = modular(case, training_mode="local")
    name, module = CASES[case][1][-1], model.modules[0]
    start = model.get_weights()
    early = model.early_exit_model(name)
    found = []
    for trained in (early, model):
        model.set_weights(start)
        trained.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
        trained.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        found.append([v.numpy() for v in module.all_trainable_variables])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        early.evaluate(x, y, verbose=0),
        model.evaluate_modules(x, y)[name]["loss"],
        rtol=1e-5,
    )


@pytest.mark.parametrize("case", ["unet", "dense_net"])
def test_it_is_saved_and_loaded(case, tmp_path):
    _, model, x, y = modular(case, training_mode="local")
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    name = CASES[case][1][-1]
    old, new = model.boundaries[name], loaded.boundaries[name]
    assert (old.tensors, old.seen) == (new.tensors, new.seen)
    found = []
    for each in (model, loaded):
        keras.utils.set_random_seed(1)
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        found.append(each.get_weights())
    assert_equal(*found)


@pytest.mark.parametrize(
    ("tensors", "seen"),
    [(None, (0, 1)), ("wide", (0,)), (["deep", "wide"], (1, 0)), (1, (1,))],
)
def test_the_objective_sees_what_it_names(tensors, seen):
    given = {("wide", "deep"): e2e.objectives.Prediction(tensors=tensors)}
    model = e2e.modularize(wide_and_deep(), given, training_mode="local")
    boundary = model.boundaries["deep"]
    assert boundary.seen == seen
    again = type(boundary.objective).from_config(boundary.objective.get_config())
    assert again.tensors == boundary.objective.tensors
    record = model.forward_record(data(5))
    [crossing], [activation] = record.crossed("deep"), record.activations("deep")
    expected = np.concatenate([crossing.inputs[place] for place in seen], axis=1)
    np.testing.assert_array_equal(activation, expected)


def test_tensors_of_unlike_shapes_are_averaged_and_masked():
    _, model, x, _ = modular("encoder_decoder")
    record = model.forward_record(x)
    [crossing], [activation] = record.crossed("target"), record.activations("target")
    *states, tokens = [np.asarray(t) for t in crossing.inputs]
    mask = x[1] != 0
    mean = (tokens * mask[..., None]).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
    expected = np.concatenate([*states, mean], axis=1)
    np.testing.assert_allclose(activation, expected, rtol=1e-5, atol=1e-7)


def test_cached_stages_train_as_those_that_run_all_modules():
    x = RANDOM.random((16, 8, 8, 1)).astype("float32")
    found = []
    for cache in (None, "memory"):
        keras.utils.set_random_seed(0)
        model = e2e.modularize(unet(), [("skip1", "pool1"), "middle"])
        model.compile("adam", "mse", jit_compile=False)
        regimes.train(model, "greedy", x, x, steps=6, window=2, batch_size=8, cache=cache)
        found.append(model.get_weights())
    assert_equal(*found)


class Own(keras.Model):
    """A class with a method of its own."""

    def answer(self):
        return 42


def test_a_class_of_ones_own_keeps_them(tmp_path):
    graph = wide_and_deep()
    base = Own(graph.input, graph.output, name="own")
    model = e2e.modularize(base, [("wide", "deep")], objective=Small())
    model.save(tmp_path / "model.keras")
    known = {"Own": Own, "Small": Small}
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=known)
    boundary = loaded.boundaries["deep"]
    assert (boundary.tensors, boundary.seen) == (("wide", "deep"), (0, 1))
    assert loaded.answer() == 42


def test_the_example_of_the_docs_runs():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "boundaries.md").read_text()
    names: dict = {}
    exec(text.split("```python")[1].split("```")[0], names)
    assert list(names["model"].boundaries) == ["pool1"]
