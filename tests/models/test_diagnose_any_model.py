"""`diagnose` takes any compiled Keras model, and nothing of it is changed afterwards."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.diagnostics import ResetUtility, Verdict
from keras_e2e.models.diagnosis import Diagnosis

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 8)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)
IMAGES = RNG.normal(size=(96, 8, 8, 1)).astype("float32")
TOKENS = RNG.integers(0, 20, size=(96, 6))
SERIES = RNG.normal(size=(64, 6, 1)).astype("float32")
LABELS = RNG.integers(0, 3, size=96)
CROSSENTROPY = "sparse_categorical_crossentropy"
QUICK = {"steps": 20, "update_freq": 2, "verbose": 0, "batch_size": 16}


def mlp():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", kernel_regularizer="l2"),
            layers.Dropout(0.2),
            layers.Dense(16, activation="tanh"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(
        "adam", CROSSENTROPY, metrics=["accuracy"], weighted_metrics=[CROSSENTROPY]
    )
    return model, X, Y


def unbuilt():
    model = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model, X, Y


def convolutions():
    inputs = x = keras.Input((8, 8, 1))
    for filters in (4, 8):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.Dropout(0.1)(layers.MaxPooling2D()(x))
    outputs = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.AdamW(1e-3, use_ema=True), CROSSENTROPY)
    return model, IMAGES, LABELS


def residual():
    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu")(inputs)
    for _ in range(3):
        x = layers.Add()([x, layers.Dense(16, activation="relu")(x)])
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile("rmsprop", CROSSENTROPY, run_eagerly=True)
    return model, X[:64], Y[:64]


class Block(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.inner = layers.Dense(units, activation="relu")
        self.drop = layers.Dropout(0.1)

    def call(self, x, training=None):
        return x + self.drop(self.inner(x), training=training)


class Code(keras.Model):
    """Code: blocks with a skip connection inside, and one around two of them."""

    def __init__(self):
        super().__init__()
        self.stem = layers.Dense(16, activation="relu", name="stem")
        self.blocks = [Block(16) for _ in range(4)]
        self.out = layers.Dense(3, activation="softmax", name="out")

    def call(self, x, training=None):
        x = self.stem(x)
        x = self.blocks[0](x, training=training)
        x = x + self.blocks[2](self.blocks[1](x, training=training), training=training)
        return self.out(self.blocks[3](x, training=training))


def code():
    model = Code()
    model.compile("adam", CROSSENTROPY, metrics=["accuracy"], steps_per_execution=3)
    return model, X, Y


def tokens():
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, mask_zero=True),
            layers.LSTM(8, return_sequences=True),
            layers.LSTM(8),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", CROSSENTROPY, jit_compile=False)
    return model, TOKENS, LABELS


def stateful():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(16, 6, 1)),
            layers.GRU(4, return_sequences=True, stateful=True),
            layers.GRU(4, stateful=True),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", jit_compile=False)
    return model, SERIES, SERIES[:, -1]


def halves():
    with_policy = {"dtype": "mixed_float16"}
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", **with_policy),
            layers.Dense(16, activation="relu", **with_policy),
            layers.Dense(3, activation="softmax", dtype="float32"),
        ]
    )
    model.dtype_policy = keras.dtype_policies.get("mixed_float16")
    model.compile(keras.optimizers.Adam(0.01), CROSSENTROPY)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    return model, X, Y


def dicts():
    inputs = {
        "left": keras.Input((4,), name="left"),
        "right": keras.Input((4,), name="right"),
    }
    x = layers.Concatenate()([inputs["left"], inputs["right"]])
    x = layers.Dense(12, activation="relu", name="first")(x)
    x = layers.Dense(12, activation="relu", name="second")(x)
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(x),
        "size": layers.Dense(1, name="size")(x),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(gradient_accumulation_steps=2),
        {"kind": CROSSENTROPY, "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.3},
        metrics={"kind": ["accuracy"]},
    )
    return model, {"left": X[:, :4], "right": X[:, 4:]}, {"kind": Y, "size": X[:, 1]}


def modular():
    model = e2e.modularize(mlp()[0], 2)
    model.compile("adam", CROSSENTROPY, metrics=["accuracy"], steps_per_execution=2)
    model.training_mode = "deep_supervision"
    return model, X, Y


def modular_code():
    model = e2e.modularize(Code(), ["stem"])
    model.compile("adam", CROSSENTROPY)
    return model, X, Y


MODELS = [
    mlp,
    unbuilt,
    convolutions,
    residual,
    code,
    tokens,
    stateful,
    halves,
    dicts,
    modular,
    modular_code,
]

# Those that are diagnosed before they were ever trained, too.
FRESH = [unbuilt, code, modular]


def numbers(model):
    optimizer = model.optimizer
    variables = [*model.variables, *model.metrics_variables, *optimizer.variables]
    for layer in model._flatten_layers():
        variables += [
            s for s in keras.tree.flatten(getattr(layer, "states", None)) if s is not None
        ]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def attributes(model):
    """What each layer holds, by identity, and what lists and dicts of it hold."""
    found = []
    for each in [*model._flatten_layers(), model.optimizer]:
        for name, value in vars(each).items():
            inner = [*value] if isinstance(value, list | dict | set) else []
            found.append((each.name, name, id(value), [*map(id, inner)]))
    return found


def same(left, right):
    return len(left) == len(right) and all(map(np.array_equal, left, right))


def trained(make, first, diagnosed):
    """What a model is after two trainings, with or without a diagnosis between them."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(5)
    keras.random.uniform(())  # makes the generator that draws where no seed is given
    model, x, y = make()
    if first:
        model.fit(x, y, batch_size=16, verbose=0)
    if diagnosed:
        before, held = numbers(model), attributes(model)
        drawn = random.getstate(), np.random.get_state()[1].tolist()
        left = vars(model).copy()
        found = e2e.diagnose(model, x, y, **QUICK)
        assert found.trained_steps == 20
        assert same(before, numbers(model))
        assert held == attributes(model)
        assert drawn == (random.getstate(), np.random.get_state()[1].tolist())
        assert left.keys() == vars(model).keys()
        assert all(left[name] is value for name, value in vars(model).items())
    else:
        found = None
    history = model.fit(x, y, batch_size=16, verbose=0).history
    named = [layers.Dense(1).name, float(keras.random.uniform(()))]
    return numbers(model), history, named, found


@pytest.mark.sampled(4)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "first"),
    [(make, True) for make in MODELS] + [(make, False) for make in FRESH],
    ids=[make.__name__ for make in MODELS] + [f"{make.__name__}-fresh" for make in FRESH],
)
def test_it_trains_on_as_if_it_had_never_been_diagnosed(make, first):
    with_it, history, named, found = trained(make, first, diagnosed=True)
    without, other_history, other_named, _ = trained(make, first, diagnosed=False)
    assert same(with_it, without)
    assert history == other_history
    assert named == other_named
    assert len(found.verdicts) > 1
    losses = found.history["loss"][[*found.verdicts][-1]]
    assert np.isfinite(losses).sum() >= 9


def test_a_subclassed_model_is_cut_where_all_paths_join():
    model, x, y = code()
    found = e2e.diagnose(model, x, y, **QUICK)
    names = [*found.verdicts]
    assert names[-1] == "outputs" and len(names) == 4
    # The two blocks that a skip connection leads around end no module.
    assert set(names[:-1]) == {"stem", model.blocks[0].name, model.blocks[3].name}


def test_what_is_trained_is_what_the_model_would_have_trained():
    model, x, y = mlp()
    model.fit(x, y, batch_size=16, verbose=0)
    found = e2e.diagnose(model, x, y, shuffle=False, **{**QUICK, "update_freq": 1})
    losses = found.history["loss"][[*found.verdicts][-1]]
    history = []
    for start in range(0, 64, 16):
        rows = slice(start, start + 16)
        history.append(float(model.train_on_batch(x[rows], y[rows])[0]))
        model.reset_metrics()
    np.testing.assert_allclose(losses[:4], history, rtol=1e-5)


class Batches(keras.utils.PyDataset):
    def __init__(self, count, x=X, y=Y):
        super().__init__()
        self.count, self.x, self.y = count, x, y

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        start = 16 * (index % 8)
        return self.x[start : start + 16], self.y[start : start + 16]


def generator(count):
    for place in range(count):
        yield Batches(count)[place]


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def unknown_size(count):
    signature = (tf.TensorSpec((None, 8), tf.float32), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(
        lambda: ((x, y.astype("int64")) for x, y in generator(count)),
        output_signature=signature,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "data"),
    [
        (mlp, dataset),
        (mlp, lambda: dataset().repeat()),
        (mlp, lambda: unknown_size(4)),
        (code, lambda: unknown_size(500)),
        (mlp, lambda: Batches(4)),
        (mlp, lambda: Batches(None)),
        (code, lambda: generator(500)),
    ],
    ids=["finite", "infinite", "unknown", "long", "pydataset", "endless", "generator"],
)
def test_data_of_every_kind_lasts_for_the_steps(make, data):
    model, *_ = make()
    found = e2e.diagnose(model, data(), **{**QUICK, "batch_size": None})
    assert found.trained_steps == 20 and "ended after" not in str(found)
    assert len(found.steps) == 10


def test_no_more_is_drawn_from_a_generator_than_is_trained_on():
    drawn = []
    batches = ((drawn.append(None), batch)[1] for batch in generator(100))
    found = e2e.diagnose(mlp()[0], batches, **QUICK)
    assert found.trained_steps == len(drawn) == 20


def test_a_generator_that_ends_early_is_said_to():
    found = e2e.diagnose(mlp()[0], generator(7), **QUICK)
    assert found.trained_steps == 7
    assert "ended after 7 of 20 steps" in str(found)
    with pytest.raises(ValueError, match="empty"):
        e2e.diagnose(mlp()[0], generator(0), **QUICK)


def test_empty_data_is_refused():
    for data in (Batches(0), dataset().take(0)):
        with pytest.raises(ValueError, match=r"empty|has length 0"):
            e2e.diagnose(mlp()[0], data, **QUICK)


def test_weights_of_examples_and_classes_count():
    model, x, y = mlp()
    plain = e2e.diagnose(model, x, y, shuffle=False, **QUICK)
    zero = e2e.diagnose(model, x, y, shuffle=False, sample_weight=np.zeros(128), **QUICK)
    heavy = e2e.diagnose(
        model, x, y, shuffle=False, class_weight={0: 9, 1: 9, 2: 9}, **QUICK
    )
    first = [
        found.history["loss"][[*found.verdicts][-1]][0] for found in (zero, plain, heavy)
    ]
    assert first[0] < 0.7 * first[1] and first[2] > 3 * first[1]


@pytest.mark.parametrize("make", [mlp, modular, code], ids=lambda make: make.__name__)
def test_the_loss_on_validation_data_is_told_before_and_after(make):
    model, x, y = make()
    model.optimizer.learning_rate = 0.03
    before = model.evaluate(x, y, verbose=0)[0]
    for held_out in ((x, y), dataset()):
        found = e2e.diagnose(model, x, y, validation_data=held_out, **QUICK)
        np.testing.assert_allclose(found.validation["before"], before, rtol=1e-5)
        assert found.validation["after"] < 0.95 * before
    assert f"{before:.4g} before" in str(found)
    assert model.evaluate(x, y, verbose=0)[0] == before


def test_validation_data_without_an_end_is_refused():
    model, x, y = mlp()
    with pytest.raises(ValueError, match="validation_steps"):
        e2e.diagnose(model, x, y, validation_data=dataset().repeat(), **QUICK)
    with pytest.raises(TypeError, match="used up"):
        e2e.diagnose(model, x, y, validation_data=generator(3), **QUICK)
    with pytest.raises(TypeError, match="validation_split"):
        e2e.diagnose(model, x, y, validation_split=0.2, **QUICK)
    repeated = dataset().repeat()
    found = e2e.diagnose(model, x, y, validation_data=repeated, validation_steps=2, **QUICK)
    assert found.validation["before"] > 0


def test_a_model_without_a_cut_point_is_one_module():
    inputs = keras.Input((8,))
    single = keras.Model(inputs, layers.Dense(3, activation="softmax", name="only")(inputs))

    class Single(keras.Model):
        def __init__(self):
            super().__init__()
            self.only = layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.only(x)

    for model, name in ((single, "only"), (Single(), "outputs")):
        model.compile("adam", CROSSENTROPY)
        found = e2e.diagnose(model, X, Y, **QUICK)
        assert [*found.verdicts] == [name]
        assert "one module" in str(found)


def test_a_model_that_holds_one_sequential_is_cut_inside_of_it():
    class Holder(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = mlp()[0]

        def call(self, x):
            return self.net(x)

    model = Holder()
    model.compile("adam", CROSSENTROPY)
    assert len(e2e.diagnose(model, X, Y, **QUICK).verdicts) == 3


def test_outputs_of_a_nested_model_keep_their_name():
    inputs = keras.Input((8,))
    nested = keras.Model(
        inputs, mlp()[0].layers[-1](layers.Dense(16)(inputs)), name="nested"
    )
    model = keras.Model(inputs, nested(layers.Dense(8)(inputs)))
    model.compile("adam", {"nested": CROSSENTROPY})
    assert len(e2e.diagnose(model, X, {"nested": Y}, **QUICK).verdicts) > 1


def test_a_model_that_marks_boundaries_is_cut_there():
    inputs = keras.Input((8,))
    x = e2e.ModuleBoundary(name="here")(layers.Dense(16, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="y")(x))
    model.compile("adam", CROSSENTROPY)
    count = len(model.variables)
    assert [*e2e.diagnose(model, X, Y, **QUICK).verdicts] == ["here", "y"]
    assert len(model.variables) == count


@pytest.mark.parametrize("make, count", [(convolutions, 2), (tokens, 1)])
def test_a_number_of_modules_or_their_ends_may_be_given(make, count):
    model, x, y = make()
    found = e2e.diagnose(model, x, y, boundaries=count, **QUICK)
    assert len(found.verdicts) == count + 1
    ends = [*found.verdicts][:1]
    found = e2e.diagnose(model, x, y, boundaries=ends, **QUICK)
    assert [*found.verdicts][:1] == ends and len(found.verdicts) == 2


def test_a_subclassed_model_is_split_at_the_layers_that_are_named():
    model, x, y = code()
    found = e2e.diagnose(model, x, y, boundaries={"stem"}, **QUICK)
    assert [*found.verdicts] == ["stem", "outputs"]
    with pytest.raises(ValueError, match=r"no graph to choose cut points in\. Name its"):
        e2e.diagnose(model, x, y, boundaries=2, **QUICK)


@pytest.mark.parametrize(
    "boundaries, message",
    [
        (["nowhere"], "has no layer 'nowhere'"),
        ({"a": "prediction"}, r"Give the names alone, \['a'\]"),
        ([], "name at least one layer"),
        (9, "cut point"),
        ("a", "expected a list of layer names"),
    ],
)
def test_boundaries_that_do_not_fit_are_refused(boundaries, message):
    model, x, y = convolutions()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        e2e.diagnose(model, x, y, boundaries=boundaries, **QUICK)
    assert all(map(np.array_equal, model.get_weights(), before))
    model.fit(x, y, verbose=0)


def test_a_modular_model_has_boundaries_of_its_own():
    model = e2e.modularize(mlp()[0], 1)
    model.compile("adam", CROSSENTROPY)
    with pytest.raises(ValueError, match=r"by its own modules\. Leave boundaries out"):
        e2e.diagnose(model, X, Y, boundaries=1, **QUICK)


def test_models_that_train_in_a_way_of_their_own_are_refused_by_name():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    inputs = keras.Input((8,))
    model = Own(inputs, layers.Dense(3)(inputs), name="own")
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"'own'.* overrides train_step\(\)"):
        e2e.diagnose(model, X, Y)
    with pytest.raises(ValueError, match=r"mode='local'.*no local objectives"):
        e2e.diagnose(mlp()[0], X, Y, mode="local")
    with pytest.raises(TypeError, match="arrays, a"):
        e2e.diagnose(code()[0], iter([(X, Y)]), **QUICK)


def test_a_loss_that_the_model_adds_itself_is_enough():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(ops.mean(ops.square(x)))
            return x

    inputs = keras.Input((8,))
    x = layers.Dense(4, name="code")(inputs)
    model = keras.Model(inputs, Penalty(name="end")(layers.Dense(8, name="back")(x)))
    model.compile("adam")
    found = e2e.diagnose(model, X, **QUICK)
    assert next(iter(found.verdicts)) == "code"
    assert found.history["loss"][[*found.verdicts][-1]][-1] > 0


def test_it_stands_in_the_middle_of_a_failure_too():
    model, x, y = mlp()
    before, held = numbers(model), attributes(model)

    def batches():
        yield x[:16], y[:16]
        raise RuntimeError("no more")

    with pytest.raises(Exception, match="no more"):
        e2e.diagnose(model, batches(), **QUICK)
    assert same(before, numbers(model)) and held == attributes(model)


def test_numbers_on_demand_are_measured_of_any_model():
    model, x, y = mlp()
    held = attributes(model)
    found = e2e.diagnose(model, x, y, on_demand=[ResetUtility()], **QUICK)
    assert all(np.isfinite([*found.measured["reset_utility"].values()]))
    assert held == attributes(model)


def test_what_was_thawed_after_the_step_was_traced_is_not_trained():
    model, x, y = mlp()
    model.layers[0].trainable = False
    model.compile("adam", CROSSENTROPY)
    model.fit(x, y, verbose=0)
    model.layers[0].trainable = True
    found = e2e.diagnose(model, x, y, **QUICK)
    ratios = found.history["update_ratio"][next(iter(found.verdicts))]
    assert not np.nansum(ratios)


@pytest.mark.parametrize("verbose", [2, "auto"])
def test_it_says_how_far_it_is(verbose, capsys):
    model, x, y = mlp()
    e2e.diagnose(model, x, y, **{**QUICK, "verbose": verbose})
    first, *between, last = capsys.readouterr().out.splitlines()
    assert first.startswith("diagnose: 20 training steps of 3 modules: dense")
    # On a slow machine there is a line now and then.
    assert all(line.startswith("diagnose: step ") for line in between)
    assert last.startswith("diagnose: 20 steps in ")


def test_it_says_nothing_if_asked_to(capsys):
    model, x, y = mlp()
    e2e.diagnose(model, x, y, **{**QUICK, "verbose": 0})
    assert not capsys.readouterr().out


def test_a_bar_ends_where_the_steps_end(capsys):
    model, x, y = mlp()
    keras.config.enable_interactive_logging()
    e2e.diagnose(model, x, y, **{**QUICK, "verbose": 1})
    assert "20/20" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"verbose=3.*'auto'"):
        e2e.diagnose(model, x, y, verbose=3)


def test_a_diagnosis_is_a_dict_for_json():
    model, x, y = mlp()
    found = e2e.diagnose(model, x, y, validation_data=(x, y), **QUICK)
    table = found.to_dict()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["trained_steps"] == 20 and len(table["steps"]) == 10
    first = next(iter(table["verdicts"].values()))
    assert {"state", "confidence", "message", "alarm", "cause", "numbers"} <= set(first)
    assert None in table["history"]["loss"][next(iter(table["verdicts"]))]


def test_a_diagnosis_is_drawn():
    model, x, y = mlp()
    found = e2e.diagnose(model, x, y, **QUICK)
    figure = found.plot("update_ratio")
    (trace,) = figure.data
    assert trace.type == "heatmap"
    assert list(trace.y) == list(found.verdicts)
    assert len(trace.x) == 10
    every = found.plot()
    assert len(every.data) > 3
    assert {each.type for each in every.data} == {"heatmap"}
    with pytest.raises(ValueError, match="was not measured"):
        found.plot("beauty")


def test_each_number_is_explained():
    model, x, y = mlp()
    text = str(e2e.diagnose(model, x, y, **QUICK))
    assert max(map(len, text.splitlines())) <= 100
    assert "update_ratio = norm(dtheta) / norm(theta): " in text


def test_what_is_saved_afterwards_loads(tmp_path):
    model, x, y = mlp()
    e2e.diagnose(model, x, y, **QUICK)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert same(model.get_weights(), loaded.get_weights())
    of_optimizer = [
        [keras.ops.convert_to_numpy(v) for v in each.optimizer.variables]
        for each in (model, loaded)
    ]
    assert same(*of_optimizer)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    tf.train.Checkpoint(model=model).restore(path)
    assert same(before, model.get_weights())


def test_a_graph_with_a_call_of_its_own_is_run_as_code():
    class Scaled(keras.Model):
        def call(self, x, training=None):
            return super().call(x * 0.0, training=training)

    inputs = keras.Input((8,))
    x = layers.Dense(16, activation="relu", name="first")(inputs)
    x = layers.Dense(16, activation="relu", name="second")(x)
    model = Scaled(inputs, layers.Dense(3, activation="softmax", name="y")(x))
    model.compile("sgd", CROSSENTROPY)
    found = e2e.diagnose(model, X, Y, **QUICK)
    assert [*found.verdicts] == ["first", "second", "outputs"]
    # Nothing but zeros reaches the first layer.
    assert found.history["loss"]["outputs"][0] == pytest.approx(np.log(3), abs=1e-4)


def test_a_model_that_takes_batches_of_one_size():
    model = keras.Sequential(
        [keras.Input(batch_shape=(16, 8)), layers.Dense(8), layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    found = e2e.diagnose(model, X, Y, **QUICK)
    assert len(found.verdicts) == 2


def test_under_a_strategy():
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model, x, y = mlp()
    before = numbers(model)
    found = e2e.diagnose(model, x, y, **QUICK)
    assert len(found.verdicts) == 3 and same(before, numbers(model))


def test_numbers_out_of_their_range_are_listed_where_there_is_no_alarm():
    verdict = Verdict("healthy", 0.99, {"dormant_fraction": 0.61, "signal_gain": 1.0})
    done = verdict._replace(state="converged")
    found = str(Diagnosis({"block": verdict, "done": done}, {}, [300], {}, 300))
    assert "Out of the usual range, a heuristic: dormant_fraction 0.61 of block." in found
