"""Promise 6: what cannot be honored is refused.

Each refusal is an error of the right type that names the layers or the argument and
the way out. After it nothing has changed, and the model can still be used.
"""

import contextlib
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers, ops, tree

import keras_e2e as e2e
from keras_e2e import ModuleBoundary, TrainingMode
from keras_e2e.callbacks import TrainingModeScheduler
from keras_e2e.objectives import IntermediateTarget, Prediction, Reconstruction
from keras_e2e.trainers import backend
from keras_e2e.utils import compat

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 8)).astype("float32")
Y = RNG.integers(0, 3, size=8)
SYMBOLS = RNG.integers(0, 4, size=8)

# What all refusals have in common


def state_of(model):
    """Everything of a model that a refusal could have changed."""
    below = [model, *compat.all_layers(model)]
    optimizer = getattr(model, "optimizer", None)
    return {
        "weights": [(id(v), v.path, v.numpy().tobytes()) for v in model.weights],
        "layers": [(id(x), x.name, x.trainable, "call" in vars(x)) for x in below],
        "mode": getattr(model, "training_mode", None),
        "step": None if optimizer is None else int(optimizer.iterations),
    }


def difference(before, after):
    return [key for key in before if before[key] != after[key]]


@contextlib.contextmanager
def refused(error, *said):
    """The error is of this type and its message says all of this."""
    with pytest.raises(error) as caught:
        yield
    assert caught.type is error, caught.value
    message = str(caught.value)
    missing = [phrase for phrase in said if phrase not in message]
    assert not missing, f"{missing} not in: {message}"


def assert_usable(model, x):
    """The model predicts and takes a training step."""
    outputs = model(x)
    zeros = tree.map_structure(lambda t: np.zeros(t.shape, "float32"), outputs)
    model.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(x, zeros)).all()


@contextlib.contextmanager
def refused_for(model, error, *said, x=X):
    """The refusal leaves this model as it was, and usable."""
    before = state_of(model)
    with refused(error, *said):
        yield
    after = state_of(model)
    if not before["weights"]:  # to look at an unbuilt model is to build it
        before["weights"] = after["weights"]
    assert not difference(before, after)
    assert_usable(model, x)


def stock():
    return keras.Sequential(
        [
            keras.Input((8,), name="features"),
            layers.Dense(6, activation="relu", name="a"),
            layers.Dense(4, activation="softmax", name="b"),
            layers.Dense(3, activation="softmax", name="out"),
        ],
        name="net",
    )


class Subclassed(keras.Model):
    """A subclassed model whose call is given."""

    def __init__(self, run, **parts):
        super().__init__(name="sub")
        self.run = run
        self.a = layers.Dense(6, activation="relu", name="a")
        self.b = layers.Dense(6, name="b")
        self.out = layers.Dense(3, activation="softmax", name="out")
        for name, part in parts.items():
            setattr(self, name, part)

    def call(self, inputs):
        return self.run(self, inputs)


def plain(self, x):
    return self.out(self.b(self.a(x)))


def subclassed(run=plain, built=True, x=X, **parts):
    model = Subclassed(run, **parts)
    if built:
        model(x)
    return model


# Which boundaries


@pytest.mark.parametrize(
    ("boundaries", "said"),
    [
        (["zz"], ["'net'", "'zz'", "'a'", "'b'", "'out'"]),
        (["a", "zz"], ["'net'", "'zz'", "'a'", "'b'", "'out'"]),
        ({"zz": "pred"}, ["'net'", "'zz'", "'a'", "'b'", "'out'"]),
        (["a", "a"], ["'a'", "2 times"]),
        (["a", 3], ["3", "layer names"]),
        ("a", ["'a'", "list of layer names", "dict", "number"]),
        ([], ["boundaries=[]", "at least one layer", "leave it out"]),
        ({}, ["boundaries={}", "at least one layer", "leave it out"]),
    ],
    ids=str,
)
def test_unknown_and_repeated_names_are_refused(boundaries, said):
    model = stock()
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, boundaries)


@pytest.mark.parametrize("boundaries", [["zz"], {"zz": "pred"}, ["a", "a"]], ids=str)
@pytest.mark.parametrize("built", [True, False])
def test_unknown_and_repeated_names_are_refused_in_a_subclassed_model(boundaries, built):
    model = subclassed(built=built)
    name = next(iter(boundaries))
    said = ["'a'"] if name == "a" else ["'sub'", "'zz'", "'a'", "'b'", "'out'"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, boundaries)


def test_a_layer_named_twice_by_name_and_path_is_refused():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(5, name="i1"), layers.Dense(4, name="i2")],
        name="inner",
    )
    model = keras.Sequential([keras.Input((8,)), inner, layers.Dense(3, name="out")])
    with refused_for(model, ValueError, "'i1'", "'inner/i1'", "twice"):
        e2e.modularize(model, ["i1", "inner/i1"])


def test_an_ambiguous_name_is_refused_with_its_paths():
    def part(name):
        return keras.Sequential(
            [keras.Input((8,)), layers.Dense(8, name="same")], name=name
        )

    model = keras.Sequential(
        [keras.Input((8,)), part("left"), part("right"), layers.Dense(3)]
    )
    with refused_for(
        model, ValueError, "'same'", "left/same", "right/same", "Give the path"
    ):
        e2e.modularize(model, ["same"])


def test_a_boundary_after_a_boundary_is_refused():
    model = e2e.modularize(stock(), ["a"])
    with refused_for(model, ValueError, "'a_boundary'", "boundary already"):
        e2e.modularize(model, ["a_boundary"])
    with refused_for(model, ValueError, "'a'", "already"):
        e2e.modularize(model, ["a"])


@pytest.mark.parametrize("objective", [True, False, Prediction, 3], ids=str)
def test_what_is_no_objective_is_refused(objective):
    model = stock()
    said = ["'a", "LocalObjective", "None", repr(objective)]
    with refused_for(model, TypeError, *said):
        e2e.modularize(model, {"a": objective})


def test_one_objective_for_two_boundaries_is_refused():
    model = stock()
    objective = Prediction()
    with refused_for(model, ValueError, "'a'", "'b'", "objective"):
        e2e.modularize(model, {"a": objective, "b": objective})


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (Prediction(output_name="zz"), ["'zz'", "'out'"]),
        (Prediction("conv1"), ["'conv1'", "'linear'"]),
    ],
    ids=["target", "head"],
)
def test_an_objective_that_does_not_fit_is_refused(objective, said):
    model = stock()
    with refused_for(model, ValueError, "'a'", "objective=None", *said):
        e2e.modularize(model, {"a": objective})


# Where a boundary cannot stand


def test_a_boundary_on_the_output_is_refused():
    model = stock()
    with refused_for(model, ValueError, "'out'", "output", "earlier layer"):
        e2e.modularize(model, ["a", "out"])


def test_a_boundary_on_the_output_is_refused_by_hand():
    inputs = keras.Input((8,))
    hidden = ModuleBoundary(name="first")(layers.Dense(6)(inputs))
    outputs = ModuleBoundary(name="last")(layers.Dense(3)(hidden))
    with refused_for(
        keras.Model(inputs, outputs), ValueError, "'last'", "output", "earlier layer"
    ):
        e2e.ModularModel(inputs, outputs)


def test_a_boundary_on_one_of_the_outputs_is_refused():
    inputs = keras.Input((8,))
    hidden = layers.Dense(6, name="a")(inputs)
    model = keras.Model(inputs, [hidden, layers.Dense(3, name="out")(hidden)])
    with refused_for(model, ValueError, "'a'", "output", "earlier layer"):
        e2e.modularize(model, ["a"])


@pytest.mark.parametrize("built", [True, False])
def test_a_boundary_on_the_output_of_a_subclassed_model_is_refused(built):
    model = subclassed(built=built)
    with refused_for(model, ValueError, "'out'", "output", "earlier layer"):
        examined(model, ["out"])


def test_a_boundary_on_an_input_is_refused():
    model = stock()
    with refused_for(model, ValueError, "'features'", "input", "later layer"):
        # A Sequential model does not show its input layer; its graph does.
        e2e.modularize(keras.Model(model.inputs, model.outputs), ["features"])


def test_a_boundary_on_an_input_is_refused_by_hand():
    inputs = keras.Input((8,), name="features")
    outputs = layers.Dense(3)(ModuleBoundary(name="first")(inputs))
    with refused_for(
        keras.Model(inputs, outputs), ValueError, "'first'", "input", "later layer"
    ):
        e2e.ModularModel(inputs, outputs)


def test_a_boundary_on_an_input_of_a_subclassed_model_is_refused():
    model = subclassed(lambda self, x: plain(self, self.mark(x)), mark=mark("first"))
    with refused_for(model, ValueError, "'first'", "input", "later layer"):
        examined(model)


def mark(name):
    return ModuleBoundary(name=name)


def examined(model, boundaries=(), x=X):
    """A wrapper that has seen data; what was tapped is let go if it is refused."""
    modular = e2e.modularize(model, boundaries)
    try:
        modular.examine(x)
    except ValueError:
        assert e2e.strip(modular) is model
        raise
    return modular


def test_two_boundaries_of_one_name_are_refused():
    inputs = keras.Input((8,))
    hidden = ModuleBoundary(name="m1", module="code")(layers.Dense(6)(inputs))
    hidden = ModuleBoundary(name="m2", module="code")(layers.Dense(5)(hidden))
    outputs = layers.Dense(3)(hidden)
    with refused_for(keras.Model(inputs, outputs), ValueError, "'code'", "name of its own"):
        e2e.ModularModel(inputs, outputs)


def test_two_boundaries_of_one_name_are_refused_in_a_subclassed_model():
    model = subclassed(
        lambda self, x: self.out(self.two(self.b(self.one(self.a(x))))),
        one=ModuleBoundary(name="m1", module="code"),
        two=ModuleBoundary(name="m2", module="code"),
    )
    with refused_for(model, ValueError, "'code'", "name of its own"):
        examined(model)


def test_a_boundary_in_a_model_nested_in_one_built_by_hand_is_refused():
    inside = keras.Input((8,))
    hidden = ModuleBoundary(name="nested")(layers.Dense(5)(inside))
    inner = keras.Model(inside, layers.Dense(4)(hidden), name="inner")
    inputs = keras.Input((8,))
    outputs = layers.Dense(3)(inner(inputs))
    model = keras.Model(inputs, outputs)
    said = ["'nested'", "'inner'", "modularize"]
    with refused_for(model, ValueError, *said):
        e2e.ModularModel(inputs, outputs)
    marked = layers.Dense(3)(ModuleBoundary(name="outer")(inner(inputs)))
    with refused_for(model, ValueError, *said):
        e2e.ModularModel(inputs, marked)
    # The way out that the error names.
    modular = e2e.modularize(keras.Model(inputs, outputs))
    assert list(modular.boundaries) == ["nested"]


class Block(layers.Layer):
    """A layer of layers, which is no graph, with a boundary among them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="in_block")
        self.mark = ModuleBoundary(name="mark")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.mark(self.dense(x))


def test_a_boundary_inside_a_layer_that_is_no_graph_is_refused():
    inputs = keras.Input((8,))
    outputs = layers.Dense(3, name="out")(Block(name="block")(inputs))
    model = keras.Model(inputs, outputs, name="net")
    with refused_for(model, ValueError, "'mark'", "'block'", "not a graph"):
        e2e.ModularModel(inputs, outputs)
    assert [*e2e.modularize(model).boundaries] == ["mark"]  # as code


# Around a boundary


def with_skip():
    inputs = keras.Input((8,))
    first = layers.Dense(6, name="a")(inputs)
    second = layers.Dense(6, name="b")(first)
    total = layers.Add(name="add")([first, second])
    return keras.Model(inputs, layers.Dense(3, name="out")(total), name="net")


def test_a_skip_connection_around_a_boundary_is_refused():
    model = with_skip()
    said = ["'b'", "'a'", "a -> add -> out", "have joined"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, ["b"])
    # The way out that the error names.
    assert list(e2e.modularize(model, ["add"]).boundaries) == ["add"]


def test_a_skip_connection_around_a_boundary_is_refused_by_hand():
    inputs = keras.Input((8,))
    first = layers.Dense(6, name="a")(inputs)
    second = ModuleBoundary(name="mark")(layers.Dense(6, name="b")(first))
    outputs = layers.Dense(3, name="out")(layers.Add(name="add")([first, second]))
    said = ["'mark'", "'a'", "a -> add -> out", "have joined"]
    with refused_for(keras.Model(inputs, outputs), ValueError, *said):
        e2e.ModularModel(inputs, outputs)


def residual():
    x = inputs = keras.Input((6, 6, 2))
    for block in (0, 1):
        skip = x = layers.Conv2D(4, 3, padding="same", name=f"conv{block}_0")(x)
        x = layers.Conv2D(4, 3, padding="same", name=f"conv{block}_1")(x)
        x = layers.BatchNormalization(name=f"bn{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
        x = layers.Add(name=f"add{block}")([skip, x])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="residual")


@pytest.mark.parametrize("inside", ["conv0_1", "bn0", "relu0", "relu1"])
def test_a_boundary_inside_a_residual_block_is_refused(inside):
    model = residual()
    block = inside[-1] if inside[0] != "c" else "0"
    said = [f"'{inside}'", f"conv{block}_0 -> add{block}", f"joined, at 'add{block}'"]
    x = np.ones((2, 6, 6, 2), "float32")
    with refused_for(model, ValueError, *said, x=x):
        e2e.modularize(model, [inside])
    e2e.modularize(model, ["add0", "add1"])


def test_an_output_from_before_a_boundary_is_refused():
    inputs = keras.Input((8,))
    first = layers.Dense(6, name="a")(inputs)
    early = layers.Dense(2, name="early")(first)
    second = layers.Dense(6, name="b")(first)
    model = keras.Model(inputs, [early, layers.Dense(3, name="out")(second)])
    with refused_for(model, ValueError, "'b'", "'a'", "a -> early", "output"):
        e2e.modularize(model, ["b"])


@pytest.mark.parametrize("built", [True, False])
def test_a_skip_connection_in_a_subclassed_model_is_refused(built):
    def skipping(self, x):
        hidden = self.a(x)
        return self.out(ops.add(hidden, self.b(hidden)))

    model = subclassed(skipping, built=built)
    said = ["'b'", "'a'", "skip connection", "have joined"]
    with refused_for(model, ValueError, *said):
        examined(model, ["b"])


def test_a_skip_connection_around_a_boundary_in_call_is_refused():
    def skipping(self, x):
        hidden = self.a(x)
        return self.out(ops.add(hidden, self.mark(self.b(hidden))))

    model = subclassed(skipping, mark=mark("code"))
    with refused_for(model, ValueError, "'code'", "'a'", "skip connection"):
        examined(model)


def test_a_skip_over_two_boundaries_of_a_subclassed_model_is_refused():
    def skipping(self, x):
        hidden = self.a(x)
        code = self.two(self.b(self.one(hidden)))
        return self.out(ops.add(hidden, code))

    model = subclassed(skipping, one=mark("one"), two=mark("two"))
    said = ["'a'", "'one'", "skip connection", "have joined"]
    with refused_for(model, ValueError, *said):
        examined(model)


# Shared by two modules


def test_an_owner_that_does_not_use_what_is_shared_is_refused():
    inputs = keras.Input((8,))
    twice = layers.Dense(8, name="twice")
    hidden = layers.Dense(8, name="b")(layers.Dense(8, name="a")(twice(inputs)))
    model = keras.Model(inputs, layers.Dense(3, name="out")(twice(hidden)))
    said = ["shared={'twice': 'b'}", "'twice/kernel'", "['a', 'out']"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, ["a", "b"], shared={"twice": "b"})
    found = e2e.modularize(model, ["a", "b"], shared={"twice": "out"}).shared
    assert found == {"twice": "out"}  # as it says


class Transposed(layers.Layer):
    """Uses the kernel of another layer: weight tying."""

    def __init__(self, kernel, **kwargs):
        super().__init__(**kwargs)
        self.kernel = kernel

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.kernel))


def test_two_owners_of_one_variable_are_refused():
    inputs = keras.Input((8,))
    embed = layers.Dense(6, use_bias=False, name="embed")
    hidden = layers.Dense(6, name="a")(embed(inputs))
    model = keras.Model(inputs, Transposed(embed.kernel, name="tied")(hidden))
    said = ["'embed/kernel'", "'tied'", "'a'", "Name one of its layers only"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, ["a"], shared={"embed": "first", "tied": "last"})
    found = e2e.modularize(model, ["a"], shared={"tied": "last"}).shared
    assert found == {"tied": "tied"}  # as it says


def test_an_owner_that_does_not_use_it_in_a_subclassed_model_is_refused():
    def sharing(self, x):
        return self.out(self.b(self.mix(self.b(self.a(x)))))

    model = subclassed(sharing, mix=layers.LayerNormalization(name="mix"))
    said = ["shared={'b': 'out'}", "/b/kernel", "'mix'", "'outputs'"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, ["mix"], shared={"b": "out"})


# In a loop


@keras.saving.register_keras_serializable("test_refusals")
class MarkedCell(layers.Layer):
    """A recurrent cell that applies a boundary at every time step."""

    state_size = output_size = 3

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)
        self.mark = ModuleBoundary(name="in_cell")

    def build(self, shape):
        self.dense.build((None, shape[-1] + 3))

    def call(self, x, states):
        h = self.mark(self.dense(ops.concatenate([x, states[0]], -1)))
        return h, [h]


def marked_part():
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), ModuleBoundary(name="in_part")],
        name="part",
    )


LOOPS = [
    ("rnn", "cell_1", lambda: layers.RNN([cell(1), cell(2)], name="rnn")),
    ("lstm", "lstm_cell", lambda: layers.LSTM(3, name="lstm")),
    ("gru", "gru_cell", lambda: layers.GRU(3, name="gru")),
    ("simple", "simple_rnn_cell", lambda: layers.SimpleRNN(3, name="simple")),
    (
        "each",
        "inner",
        lambda: layers.TimeDistributed(layers.Dense(3, name="inner"), name="each"),
    ),
    (
        "both",
        "forward_inner",
        lambda: layers.Bidirectional(layers.LSTM(3, name="inner"), name="both"),
    ),
]
MARKED_LOOPS = [
    ("rnn", "in_cell", lambda: layers.RNN(MarkedCell(), name="rnn")),
    ("each", "in_part", lambda: layers.TimeDistributed(marked_part(), name="each")),
    (
        "both",
        "in_cell",
        lambda: layers.Bidirectional(layers.RNN(MarkedCell()), name="both"),
    ),
]
SERIES = np.ones((4, 5, 3), "float32")


def cell(number):
    return layers.LSTMCell(3, name=f"cell_{number}")


def recurrent(loop):
    inputs = keras.Input((5, 3))
    hidden = layers.Flatten()(loop(inputs))
    hidden = layers.Dense(4, name="after")(hidden)
    return keras.Model(inputs, layers.Dense(2, name="out")(hidden), name="recurrent")


class Recurrent(keras.Model):
    def __init__(self, loop):
        super().__init__(name="recurrent")
        self.loop = loop
        self.flatten = layers.Flatten()
        self.after = layers.Dense(4, name="after")
        self.out = layers.Dense(2, name="out")

    def call(self, x):
        return self.out(self.after(self.flatten(self.loop(x))))


@pytest.mark.parametrize(("loop", "inside", "make"), LOOPS, ids=[x[0] for x in LOOPS])
def test_a_boundary_inside_a_loop_is_refused(loop, inside, make):
    model = recurrent(make())
    said = [f"'{inside}'", f"'{loop}'", "loop", "itself"]
    if loop == "both":  # its layers have names that Keras made up
        said = ["'forward_inner'", "'both'"]
    with refused_for(model, ValueError, *said, x=SERIES):
        e2e.modularize(model, [inside])
    assert list(e2e.modularize(model, [loop]).boundaries) == [loop]


@pytest.mark.parametrize(("loop", "inside", "make"), LOOPS, ids=[x[0] for x in LOOPS])
def test_a_boundary_inside_a_loop_of_a_subclassed_model_is_refused(loop, inside, make):
    model = Recurrent(make())
    model(SERIES)
    said = [f"'{inside}'", f"'{loop}'", "loop", "itself"]
    with refused_for(model, ValueError, *said, x=SERIES):
        e2e.modularize(model, [inside])
    assert list(examined(model, [loop], x=SERIES).boundaries) == [loop]


@pytest.mark.parametrize(
    ("loop", "inside", "make"), MARKED_LOOPS, ids=[x[0] for x in MARKED_LOOPS]
)
def test_a_boundary_applied_inside_a_loop_is_refused(loop, inside, make):
    said = [f"'{inside}'", f"'{loop}'", "loop", "itself"]
    model = recurrent(make())
    with refused_for(model, ValueError, *said, x=SERIES):
        e2e.modularize(model, ["after"])
    model = Recurrent(make())
    model(SERIES)
    with refused_for(model, ValueError, *said, x=SERIES):
        e2e.modularize(model, ["after"])


def test_a_boundary_in_a_loop_of_a_call_is_refused():
    def looping(self, x):
        x = self.a(x)
        for _ in range(3):
            x = self.b(x)
        return self.out(x)

    model = subclassed(looping)
    with refused_for(model, ValueError, "'b'", "3 times", "after the loop"):
        examined(model, ["b"])


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'sub':UserWarning")
def test_a_boundary_that_a_call_never_crosses_is_refused():
    model = subclassed(idle=layers.Dense(3, name="idle"))
    model.idle.build((None, 6))
    with pytest.raises(ValueError, match=r"'idle'.*(not crossed|0 times)") as caught:
        examined(model, ["idle"])
    assert "loop" not in str(caught.value), "not the reason, and no way out"


# Labels


def labeled(mode="local", *, run_eagerly=False, **objectives):
    """A modular model in a mode, compiled."""
    model = e2e.modularize(stock(), objectives, training_mode=mode)
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, run_eagerly=run_eagerly)
    return model


@contextlib.contextmanager
def refused_to_fit(model, *said, good, error=ValueError):
    """As `refused_for`, for a compiled model; `good` is data that it does take."""
    before = state_of(model)
    with refused(error, *said):
        yield
    assert not difference(before, state_of(model))
    history = model.fit(*good, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert difference(before, state_of(model)) == ["weights", "step"]


@pytest.mark.parametrize(
    "mode",
    [
        "local",
        "deep_supervision",
        "sequential:a",
        TrainingMode("mixed", stop=["a"]),
    ],
    ids=str,
)
def test_an_objective_without_the_targets_it_needs_is_refused(mode):
    model = labeled(mode, a="pred")
    said = ["'a'", "targets", "Give y", "Reconstruction"]
    with refused_to_fit(model, *said, good=(X, Y)):
        model.fit(X, verbose=0)


def test_an_objective_is_refused_an_unlabeled_dataset():
    import tensorflow as tf

    model = labeled(a="pred")
    with refused_to_fit(model, "'a'", "targets", "Give y", good=(X, Y)):
        model.fit(tf.data.Dataset.from_tensor_slices((X,)).batch(4), verbose=0)


@pytest.mark.parametrize(
    ("y", "mode"),
    [
        (None, "local"),
        (Y, "local"),
        ({"out": Y}, "local"),
        ({"out": Y, "a": SYMBOLS}, "local"),
        (Y, "deep_supervision"),
        (Y, "sequential:b"),
    ],
    ids=["none", "bare", "targets only", "of another boundary", "deep", "sequential"],
)
def test_an_objective_without_the_labels_it_needs_is_refused(y, mode):
    model = labeled(mode, a=Reconstruction(), b=IntermediateTarget())
    said = ["'b'", "labels", "y={..., 'b': labels}", "mode"]
    with refused_to_fit(model, *said, good=(X, {"out": Y, "b": SYMBOLS})):
        model.fit(X, y, verbose=0)


def test_labels_without_the_models_targets_are_refused():
    model = labeled(b=IntermediateTarget())
    good = (X, {"out": Y, "b": SYMBOLS})
    with refused_to_fit(model, "'out'", good=good):
        model.fit(X, {"b": SYMBOLS}, verbose=0)


@pytest.mark.parametrize("mode", ["end_to_end", "local", "sequential:b"])
def test_labels_of_the_wrong_name_are_refused(mode):
    model = labeled(mode, b=IntermediateTarget())
    said = ["'symbols'", "'out'", "'b'", "under the boundary's name"]
    with refused_to_fit(model, *said, good=(X, {"out": Y, "b": SYMBOLS})):
        model.fit(X, {"out": Y, "symbols": SYMBOLS}, verbose=0)


@pytest.mark.parametrize(
    ("objective", "wrong", "right", "said"),
    [
        (IntermediateTarget(), np.zeros((8, 4)), SYMBOLS, ["(None, 4)", "(None,)"]),
        (IntermediateTarget(), np.zeros((8, 2, 1)), SYMBOLS, ["2, 1)", "(None,)"]),
        (
            IntermediateTarget("mse"),
            np.zeros((8, 3)),
            np.zeros((8, 4)),
            ["(None, 3)", "(None, 4)"],
        ),
        (IntermediateTarget("mse"), np.zeros(8), np.zeros((8, 4)), ["(None, 4)"]),
        (
            IntermediateTarget("categorical_crossentropy", head="mlp", units=5),
            np.zeros((8, 4)),
            np.eye(5)[np.zeros(8, int)],
            ["(None, 4)", "(None, 5)"],
        ),
    ],
    ids=["one-hot", "rank", "width", "bare", "head"],
)
def test_labels_of_the_wrong_shape_are_refused(objective, wrong, right, said):
    model = labeled(b=objective)
    said = ["'b'", "shape", "Reshape the labels", *said]
    with refused_to_fit(model, *said, good=(X, {"out": Y, "b": right})):
        model.fit(X, {"out": Y, "b": wrong}, verbose=0)


@contextlib.contextmanager
def one_device():
    """A strategy, under which Keras builds the loss and the metrics beforehand."""
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("cpu:0").scope():
        yield


on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="strategies are TensorFlow's"
)
SCOPES = [
    pytest.param(contextlib.nullcontext, id="alone"),
    pytest.param(one_device, id="strategy", marks=on_tensorflow),
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("metrics", [None, ["accuracy"]], ids=str)
def test_targets_that_are_missing_are_refused_with_metrics_and_under_a_strategy(
    scope, metrics
):
    good = (X, {"out": Y, "b": SYMBOLS})
    with scope():
        model = labeled(a="pred", b=IntermediateTarget())
        for x, y, *said in (
            (X, None, "'a'", "targets", "Give y"),
            (X, {"b": SYMBOLS}, "y holds labels for ['b']", "'out'"),
        ):
            for refusing in (model.fit, model.train_on_batch):
                model.compile("adam", model.loss, metrics=metrics)  # nothing is built yet
                with refused_to_fit(model, *said, good=good):
                    refusing(x, y)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("metrics", [None, ["accuracy"]], ids=str)
def test_targets_that_a_mode_does_not_need_may_be_missing(scope, metrics):
    with scope():
        model = labeled("sequential:b", a=Reconstruction(), b=IntermediateTarget())
        model.compile("adam", model.loss, metrics=metrics)
    history = model.fit(X, {"b": SYMBOLS}, verbose=0)
    parts = {"a_loss", "b_loss", "out_loss"}
    assert {*history.history} == {"loss", *parts}
    model.training_mode = "sequential:a"
    assert np.isfinite(model.fit(X, verbose=0).history["loss"]).all()
    model.training_mode = "local"
    logs = model.fit(X, {"out": Y, "b": SYMBOLS}, verbose=0).history
    assert set(logs) == {"loss", *parts, *(metrics or [])}


def regularized():
    """A compiled model with all that a step may change, and penalties."""
    base = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, kernel_regularizer="l2", activity_regularizer="l2", name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5, seed=3),
            layers.Dense(3, activation="softmax", name="out"),
        ],
        name="net",
    )
    objectives = {"norm": IntermediateTarget()}
    model = e2e.modularize(base, objectives, training_mode="local")
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def everything(model):
    """All that a step may change, but for the metrics, which `fit` resets."""
    own = [*model.trainable_variables, *model.non_trainable_variables]
    return [v.numpy() for v in [*own, *model.optimizer.variables]]


def trained(model, **kwargs):
    """The history of a `fit` that does the same each time."""
    y = {"out": Y, "norm": SYMBOLS}
    return model.fit(X, y, verbose=0, shuffle=False, **kwargs).history


def assert_alike(model, other):
    """Both predict and evaluate the same, to the bit."""
    here, there = (one.predict(X, verbose=0) for one in (model, other))
    assert here.tobytes() == there.tobytes()
    here, there = (one.evaluate(X, Y, verbose=0) for one in (model, other))
    assert here == there


WRONG = {"out": Y, "symbols": SYMBOLS}


FAILURES = {
    "fit": (lambda model: model.fit(X, Y, verbose=0), "labels"),
    "train_on_batch": (lambda model: model.train_on_batch(X, Y), "labels"),
    "evaluate": (lambda model: model.evaluate(X, WRONG, verbose=0), "'symbols'"),
    "predict": (lambda model: model.predict(X[:, :5], verbose=0), "shape"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("seen", [False, True], ids=["at first", "later"])
def test_a_step_that_fails_leaves_the_model_for_the_next(failure, seen):
    fail, said = FAILURES[failure]
    model, other = regularized(), regularized()
    other.set_weights(model.get_weights())
    for one in (model, other):
        if seen:
            trained(one)
            one.evaluate(X, Y, verbose=0)
    before = everything(model)
    with refused(ValueError, said):
        fail(model)
    assert all(map(np.array_equal, before, everything(model)))
    assert trained(model) == trained(other)
    assert_alike(model, other)


def test_a_step_that_fails_leaves_no_penalties_for_the_next():
    model = regularized()
    with refused(ValueError, "labels"):
        model.fit(X, Y, verbose=0)
    model.compile("adam", model.loss)  # on JAX the loss is built of what is there
    assert np.isfinite(trained(model)["loss"]).all()


def test_validation_that_fails_leaves_what_was_trained():
    model, other = regularized(), regularized()
    other.set_weights(model.get_weights())
    trained(other)
    with refused(ValueError, "'symbols'"):
        trained(model, validation_data=(X, WRONG))
    assert_alike(model, other)
    assert trained(model) == trained(other)


def test_labels_at_a_boundary_crossed_twice_are_refused():
    one, other = keras.Input((8,), name="one"), keras.Input((8,), name="other")
    encoder = layers.Dense(4, activation="softmax", name="encoder")
    pair = layers.Concatenate()([encoder(one), encoder(other)])
    base = keras.Model([one, other], layers.Dense(3, name="out")(pair))
    model = e2e.modularize(base, {"encoder": IntermediateTarget()}, training_mode="local")
    model.compile("adam", "mse")
    x, y = [X, X], np.zeros((8, 3))
    said = ["'encoder'", "2 times", "stacked"]
    with refused(ValueError, *said):
        model.fit(x, {"out": y, "encoder": SYMBOLS}, verbose=0)
    assert int(model.optimizer.iterations) == 0
    model.training_mode = "end_to_end"
    model.fit(x, y, verbose=0)


# Modes


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("locl", ["'locl'", "'local'", "'end_to_end'"]),
        ("LOCAL", ["'LOCAL'", "'local'"]),
        (3, ["3", "'local'"]),
        (None, ["None", "'local'"]),
        (["local"], ["['local']", "'local'"]),
        ("sequential:zz", ["'zz'", "'a'", "'out'"]),
        ("sequential:", ["''", "'a'", "'out'"]),
        (TrainingMode("local", weights={"zz": 1}), ["'zz'", "['a', 'b']"]),
        (TrainingMode("local", weights={"out": 1}), ["'out'", "['a', 'b']"]),
        (TrainingMode("mixed", stop=["a", "zz"]), ["'zz'", "['a', 'b']"]),
        (TrainingMode("mixed", stop=["out"]), ["'out'", "['a', 'b']"]),
        ({"name": "locl"}, ["'locl'", "'local'"]),
        ({"name": "local", "weight": 1}, ["'weight'"]),
    ],
    ids=str,
)
def test_a_mode_that_does_not_fit_is_refused(mode, said):
    model = labeled("deep_supervision", run_eagerly=True, a="pred", b="pred")
    error = TypeError if "'weight'" in said else ValueError
    with refused_to_fit(model, *said, good=(X, Y), error=error):
        model.training_mode = mode
    with refused(error, *said):
        e2e.modularize(stock(), ["a", "b"], training_mode=mode)


@pytest.mark.parametrize("weights", [-1, float("nan"), {"a": -1}, {"a": float("nan")}])
def test_negative_and_nan_weights_are_refused(weights):
    value = "nan" if "nan" in str(weights) else "-1"
    with refused(ValueError, value, "finite number, 0 or larger"):
        TrainingMode("local", weights=weights)


def test_an_unknown_module_is_refused_once_a_subclassed_model_is_examined():
    base = subclassed(built=False)
    model = e2e.modularize(base, ["a"], training_mode="sequential:zz")
    model.compile("adam", "sparse_categorical_crossentropy")
    with refused(ValueError, "'zz'", "'a'", "'outputs'"):
        model.fit(X, Y, verbose=0)
    model.training_mode = "sequential:a"
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "mode",
    ["local", "sequential", "sequential:a", TrainingMode("mixed", stop=["a"])],
    ids=str,
)
def test_a_module_without_a_loss_is_refused(mode):
    model = labeled("end_to_end", run_eagerly=True, a=None, b="pred")
    said = ["'a'", "no objective", "Give the boundary an objective"]
    with refused_to_fit(model, *said, good=(X, Y)):
        model.training_mode = mode
    with refused_for(stock(), ValueError, *said):
        e2e.modularize(stock(), {"a": None, "b": "pred"}, training_mode=mode)
    # The way out that the error names.
    for allowed in (TrainingMode("mixed", stop=["b"]), "deep_supervision"):
        model.training_mode = allowed
        model.fit(X, Y, verbose=0)


# Schedules


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({}, ["{0: 'local'}"]),
        ({2: "local", 1: "end_to_end"}, ["1", "2", "ascending"]),
        ({-1: "local"}, ["-1", "integer"]),
        ({1.5: "local"}, ["1.5", "integer"]),
        ({"0": "local"}, ["'0'", "integer"]),
        ({True: "local"}, ["True", "integer"]),
        ({None: "local"}, ["None", "integer"]),
        ({0: "locl"}, ["'locl'", "'local'"]),
        ({0: "local", 1: 3}, ["3", "'local'"]),
    ],
    ids=str,
)
def test_a_schedule_that_makes_no_sense_is_refused(schedule, said):
    for unit in ("epoch", "step"):
        with refused(ValueError, *said):
            TrainingModeScheduler(schedule, unit)


@pytest.mark.parametrize("unit", ["epochs", "batch", None, 1])
def test_a_schedule_in_an_unknown_unit_is_refused(unit):
    with refused(ValueError, repr(unit), "'epoch'", "'step'"):
        TrainingModeScheduler({0: "local"}, unit)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({0: "local", 2: "sequential:zz"}, ["'zz'", "'a'", "'out'"]),
        ({0: TrainingMode("local", weights={"zz": 1})}, ["'zz'", "'a'"]),
        ({0: "end_to_end", 5: TrainingMode("mixed", stop=["zz"])}, ["'zz'", "'a'"]),
        ({0: "end_to_end", 1: "sequential:b"}, ["'b'", "no objective"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_a_schedule_that_does_not_fit_is_refused_before_any_step(schedule, said, unit):
    objectives = {"a": "pred", "b": None if "no objective" in said else "pred"}
    model = labeled("deep_supervision", run_eagerly=True, **objectives)
    with refused_to_fit(model, *said, good=(X, Y)):
        model.fit(
            X, Y, epochs=3, verbose=0, callbacks=[TrainingModeScheduler(schedule, unit)]
        )
    assert model.training_mode == TrainingMode("deep_supervision")


def test_a_schedule_for_a_stock_model_is_refused():
    model = stock()
    model.compile("adam", "sparse_categorical_crossentropy")
    said = ["'net'", "Sequential", "modularize"]
    with refused_to_fit(model, *said, good=(X, Y), error=TypeError):
        model.fit(X, Y, verbose=0, callbacks=[TrainingModeScheduler({0: "local"})])


# How many boundaries


@pytest.mark.parametrize("count", [0, -1])
def test_no_boundaries_at_all_are_refused(count):
    model = stock()
    with refused_for(model, ValueError, f"boundaries={count}", "at least 1"):
        e2e.modularize(model, count)


@pytest.mark.parametrize("count", [True, False])
def test_a_bool_is_no_number_of_boundaries(count):
    model = stock()
    said = [f"boundaries={count}", "list", "dict", "number"]
    for base in (model, subclassed()):
        with refused_for(base, ValueError, *said):
            e2e.modularize(base, count)


@pytest.mark.parametrize("boundaries", [True, 1.5])
def test_what_are_no_boundaries_is_refused(boundaries):
    for base in (stock(), subclassed()):
        with refused_for(base, ValueError, f"boundaries={boundaries}", "list", "dict"):
            e2e.modularize(base, boundaries)


@pytest.mark.parametrize("balance", ["Memory", "parameter", None, 2])
def test_what_cannot_be_balanced_is_refused(balance):
    said = [f"balance={balance!r}", "'memory', 'parameters', 'time'"]
    for base in (stock(), subclassed()):
        for boundaries in (2, None, ["a"]):
            with refused_for(base, ValueError, *said):
                e2e.modularize(base, boundaries, balance=balance)
    with pytest.raises(ValueError, match="Did you mean 'parameters'"):
        e2e.modularize(stock(), 2, balance="parameter")


@pytest.mark.parametrize("boundaries", [["a"], {"a": None}], ids=str)
def test_balance_is_refused_where_nothing_is_chosen(boundaries):
    for base in (stock(), subclassed()):
        with refused_for(base, ValueError, "balance='time'", "Leave `balance` out"):
            e2e.modularize(base, boundaries, balance="time")
    assert list(e2e.modularize(stock(), boundaries).boundaries) == ["a"]


def test_more_modules_than_cut_points_are_refused():
    model = stock()
    said = ["boundaries=3", "'net'", "'a'", "'b'", "at most 2"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, 3)
    assert list(e2e.modularize(model, 2).boundaries) == ["a", "b"]


def test_a_number_of_boundaries_for_a_subclassed_model_is_refused():
    model = subclassed()
    with refused_for(model, ValueError, "boundaries=2", "'sub'", "Name its layers"):
        e2e.modularize(model, 2)


# Models that cannot be split


@pytest.mark.parametrize("boundaries", [["a"], 1], ids=str)
def test_an_unbuilt_sequential_model_is_refused(boundaries):
    def unbuilt():
        parts = [layers.Dense(4, name="a"), layers.Dense(3, name="out")]
        return keras.Sequential(parts, name="net")

    model = unbuilt()
    said = ["'net'", "not built", "keras.Input", "build("]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, boundaries)
    model = unbuilt()  # the way out that the error names
    model.build((None, 8))
    assert list(e2e.modularize(model, boundaries).boundaries) == ["a"]


@pytest.mark.parametrize("value", [None, 3, "model", layers.Dense(3)], ids=str)
def test_what_is_no_model_is_refused(value):
    with refused(TypeError, "keras.Model", type(value).__name__):
        e2e.modularize(value, ["a"])


@pytest.mark.parametrize(
    "method",
    ["train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"],
)
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
@pytest.mark.parametrize("functional", [True, False])
def test_a_model_with_training_logic_of_its_own_is_refused(method, functional):
    def own(self, *args, **kwargs):
        return getattr(keras.Model, method)(self, *args, **kwargs)

    if functional:
        base = stock()
        custom = type("Custom", (keras.Model,), {method: own})
        model = custom(base.inputs, base.outputs)
    else:
        custom = type("Custom", (Subclassed,), {method: own})
        model = custom(plain)
        model(X)
    said = ["Custom", f"{method}()", "LocalObjective"]
    with refused_for(model, ValueError, *said):
        e2e.modularize(model, ["a"])


@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
def test_a_functional_model_with_a_call_of_its_own_is_refused():
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    base = stock()
    model = Doubled(base.inputs, base.outputs)
    with refused_for(model, ValueError, "Doubled", "call()"):
        e2e.modularize(model, ["a"])


def test_a_wrapped_model_is_not_wrapped_again():
    base = subclassed()
    model = e2e.modularize(base, ["a"])
    with refused_for(model, ValueError, "'sub'", "modular", "strip"):
        e2e.modularize(model, ["b"])


def test_a_multi_input_module_cannot_reconstruct_its_input():
    one, other = keras.Input((8,), name="one"), keras.Input((8,), name="other")
    pair = [layers.Dense(4, name="a")(one), layers.Dense(4, name="b")(other)]
    joined = layers.Dense(5, name="c")(layers.Concatenate()(pair))
    model = keras.Model([one, other], layers.Dense(3, name="out")(joined))
    said = ["'c'", "2 inputs", "of='model_input'"]
    for boundaries in (
        {"a": "pred", "b": "pred", "c": Reconstruction()},
        {"c": Reconstruction()},
    ):
        with refused_for(model, ValueError, *said, x=[X, X]):
            e2e.modularize(model, boundaries)
    e2e.modularize(model, {"c": Reconstruction("model_input")})


def test_a_generator_is_refused_until_the_wrapper_has_seen_data():
    def batches():
        while True:
            yield X, Y

    base = subclassed(built=False)
    model = e2e.modularize(base, ["a"])
    model.compile("adam", "sparse_categorical_crossentropy")
    with refused(ValueError, "'sub'", "generator", "model.examine("):
        model.fit(batches(), steps_per_epoch=1, verbose=0)
    model.examine(X[:2])
    model.fit(batches(), steps_per_epoch=1, verbose=0)


# Out of turn


@pytest.mark.parametrize("mode", ["local", "deep_supervision", "sequential:out"])
def test_a_training_loss_without_a_forward_pass_is_refused(mode):
    model = labeled(mode, run_eagerly=True, a="pred", b="pred")

    def loss_of(y_pred):
        return model.compute_loss(x=X, y=Y, y_pred=y_pred, training=True)

    said = ["net", "compute_loss(training=True)", "Call the model first"]
    with refused_to_fit(model, *said, good=(X, Y), error=RuntimeError):
        loss_of(model(X))
    with refused(RuntimeError, *said):  # nor is the pass of the last step of fit used
        loss_of(model(X))
    labeled(mode, a="pred")(X, training=True)
    with refused(RuntimeError, *said):  # nor the pass of another model
        loss_of(model(X))
    assert np.isfinite(float(loss_of(model(X, training=True))))


def test_local_losses_of_a_wrapper_that_has_seen_no_data_are_refused():
    model = e2e.modularize(subclassed(built=False), ["a"], training_mode="local")
    model.compile("adam", "sparse_categorical_crossentropy")
    with refused(RuntimeError, "'sub'", "'local'", "model.examine("):
        model.compute_loss(x=X, y=Y, y_pred=model(X, training=True), training=True)


def test_diagnostics_of_a_wrapper_that_has_seen_no_data_are_refused():
    model = e2e.modularize(subclassed(built=False), ["a"])
    with refused(RuntimeError, "'sub'", "model.examine("):
        model.instrument(e2e.diagnostics.default_quantities())


def test_diagnostics_are_refused_before_they_are_instrumented():
    model = labeled(a="pred")
    said = ["net", "instrument(quantities)"]
    with refused_to_fit(model, *said, good=(X, Y), error=RuntimeError):
        model.request_diagnostics()


@pytest.mark.parametrize("value", [None, 3, "model"], ids=str)
def test_strip_refuses_what_is_no_model(value):
    with refused(TypeError, "strip", type(value).__name__):
        e2e.strip(value)


def test_strip_refuses_a_stock_model_and_says_that_it_needs_none():
    for model in (stock(), subclassed()):
        with refused_for(model, TypeError, repr(model.name), "used as it is"):
            e2e.strip(model)


# Backends


def test_the_torch_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    spec = importlib.util.spec_from_file_location("step_elsewhere", backend.__file__)
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    said = ["'torch'", "tensorflow", "jax", "KERAS_BACKEND=tensorflow"]
    with refused(NotImplementedError, *said):
        elsewhere.ModularStep()
    with refused(NotImplementedError, *said):
        type("Model", (elsewhere.ModularStep, keras.Model), {})()


# Numbers that are none


@pytest.mark.parametrize("mode", ["end_to_end", "local"])
def test_nan_and_infinity_are_recorded_and_stop_nothing(mode):
    model = labeled(mode, a=Prediction("mlp"), b=Prediction("mlp"))
    model.compile(keras.optimizers.SGD(1e30), "sparse_categorical_crossentropy")
    recorder = model.instrument(e2e.diagnostics.default_quantities())
    readings = []

    class EveryStep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.request_diagnostics()

        def on_train_batch_end(self, batch, logs=None):
            readings.append(recorder.read())

    history = model.fit(X, Y, batch_size=2, epochs=2, verbose=0, callbacks=[EveryStep()])
    assert len(readings) == 8 == int(model.optimizer.iterations)
    assert not np.isfinite(history.history["loss"][-1])
    for name in ("loss", "grad_rms"):
        first, last = (list(r[name].values()) for r in (readings[0], readings[-1]))
        assert np.isfinite(first).all()
        assert len(last) == len(first)
        # On JAX the gradient of a ReLU of NaN is 0.
        broken = ~np.isfinite(last)
        assert broken.all() if keras.config.backend() == "tensorflow" else broken.any()
