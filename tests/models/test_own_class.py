"""Models of a class of their own: what it overrides is honored, or refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype("uint8")
WORDS = ["one", "two", "three", "four"]
TEXTS = np.array([f"{a} {b}" for a in WORDS for b in WORDS] * 2)
Y = np.arange(32) % 3
STEP = [
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
]
CALLED = [
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "predict_on_batch",
    "compile",
]


# A stand-in for the tasks of keras-hub 0.32 (`PipelineModel`, `Task`).


class Pipeline(keras.Model):
    """Prepares raw data in whatever a user calls."""

    def prepared(self, x, y=None, sample_weight=None):
        x = x if self.preprocessor is None else self.preprocessor(x)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def dataset(self, x, y=None, sample_weight=None, batch_size=None):
        if not isinstance(x, tf.data.Dataset):
            x = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
            x = tf.data.Dataset.from_tensor_slices(x).batch(batch_size or 32)
        return x.map(self.prepared)

    def fit(
        self, x, y=None, batch_size=None, sample_weight=None, validation_data=None, **kwargs
    ):
        if validation_data is not None:
            validation_data = self.dataset(*validation_data, batch_size=batch_size)
        data = self.dataset(x, y, sample_weight, batch_size)
        return super().fit(data, validation_data=validation_data, **kwargs)

    def evaluate(self, x, y=None, batch_size=None, sample_weight=None, **kwargs):
        if kwargs.get("_use_cached_eval_dataset", False):
            return super().evaluate(x, **kwargs)
        return super().evaluate(self.dataset(x, y, sample_weight, batch_size), **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        return super().predict(self.dataset(x, batch_size=batch_size), **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        given = keras.utils.unpack_x_y_sample_weight(self.prepared(x, y, sample_weight))
        return super().train_on_batch(*given, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        given = keras.utils.unpack_x_y_sample_weight(self.prepared(x, y, sample_weight))
        return super().test_on_batch(*given, **kwargs)

    def predict_on_batch(self, x):
        return super().predict_on_batch(self.prepared(x))


@keras.saving.register_keras_serializable("tests_own_class")
class Backbone(keras.Model):
    """A graph that is made by its constructor."""

    def __init__(self, kind, **kwargs):
        self.kind = kind
        if kind == "text":
            inputs = keras.Input((4,), dtype="int64", name="tokens")
            self.embedding = layers.Embedding(8, 6, name="embedding")
            x = self.embedding(inputs)
        else:
            inputs = x = keras.Input((8, 8, 3), name="image")
        self.blocks = []
        for name in ("block1", "block2"):
            self.blocks.append(layers.Dense(5, "relu", name=name))
            x = self.blocks[-1](x)
        x = layers.Flatten(name="flat")(x)
        super().__init__(inputs, layers.BatchNormalization(name="normed")(x), **kwargs)

    def get_config(self):
        return {"kind": self.kind, "name": self.name}


@keras.saving.register_keras_serializable("tests_own_class")
class Task(Pipeline):
    """A backbone with a head, a preprocessor and losses of its own."""

    def __init__(self, backbone, preprocessor=None, **kwargs):
        self.head = layers.Dense(3, name="head")
        self.backbone = backbone
        self._preprocessor = preprocessor
        super().__init__(backbone.input, self.head(backbone.output), **kwargs)
        self.compile()

    @property
    def preprocessor(self):
        return self._preprocessor

    @preprocessor.setter
    def preprocessor(self, value):
        self._preprocessor = value

    def build(self, input_shape=None):
        self.built = True  # the preprocessor is not of the graph

    def compile(self, optimizer="auto", loss="auto", *, top=1, **kwargs):
        if optimizer == "auto":
            optimizer = keras.optimizers.Adam(0.01)
        if loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        super().compile(optimizer, loss, **kwargs)
        self.top = top

    def best(self, x):
        """What a user of the class calls, and Keras does not know."""
        return np.argsort(-self.predict(x, verbose=0), axis=-1)[:, : self.top]

    def get_config(self):
        return {
            "backbone": keras.layers.serialize(self.backbone),
            "preprocessor": keras.layers.serialize(self.preprocessor),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for key in ("backbone", "preprocessor"):
            if isinstance(config[key], dict):
                config[key] = keras.layers.deserialize(config[key])
        return cls(**config)


def task(kind, seed=0):
    keras.utils.set_random_seed(seed)
    if kind == "text":
        preprocessor = layers.TextVectorization(
            vocabulary=WORDS, output_sequence_length=4, name="tokenizer"
        )
    else:
        preprocessor = layers.Rescaling(1 / 255, name="scaling")
    return Task(Backbone(kind, name="backbone"), preprocessor, name="net")


RAW = {"text": TEXTS, "image": IMAGES}
# Both with a global norm, which adds up over the weights in their order.
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.02, global_clipnorm=0.5),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5),
}


def trained(model, kind, optimizer, **kwargs):
    """What a training says of a model, from raw data and back."""
    x = RAW[kind]
    model.compile(OPTIMIZERS[optimizer](), metrics=["accuracy"], top=2, **kwargs)
    keras.utils.set_random_seed(1)
    data = {"validation_data": (x[:9], Y[:9]), "verbose": 0}
    found = dict(model.fit(x, Y, batch_size=8, epochs=2, **data).history)
    found["batch"] = [
        float(model.train_on_batch(x[:8], Y[:8])[0]),
        float(model.test_on_batch(x[8:], Y[8:])[0]),
    ]
    found["evaluate"] = model.evaluate(x, Y, verbose=0)
    found["predict"] = model.predict(x, verbose=0).tolist()
    found["predict_on_batch"] = model.predict_on_batch(x).tolist()
    found["best"] = model.best(x).tolist()
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", RAW)
def test_a_task_with_a_preprocessor_is_honored_in_full(kind, optimizer):
    stock = task(kind)
    expected = trained(stock, kind, optimizer)
    base = task(kind)
    model = e2e.modularize(base, ["block1", "normed"])
    assert isinstance(model, Task)
    assert isinstance(model, e2e.ModularModel)
    assert type(model).__name__ == "ModularTask"
    assert trained(model, kind, optimizer) == expected
    assert all(map(np.array_equal, stock.get_weights(), base.get_weights()))
    plain = e2e.strip(model)
    assert type(plain) is Task
    assert plain.top == 2
    assert plain.best(RAW[kind]).tolist() == expected["best"]
    assert [layer.name for layer in plain.layers] == [layer.name for layer in base.layers]


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("kind", RAW)
# As where stock Keras loads a model with a `compile` of its own.
@pytest.mark.filterwarnings("ignore:`compile..` was not called as part of model loading")
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_it_trains_locally_on_raw_data_and_is_saved(kind, policy, tmp_path):
    keras.utils.set_random_seed(0)  # that its loss falls is not so of all weights
    model = e2e.modularize(task(kind), {"block2": "prediction"}, training_mode="local")
    model.compile(metrics=["accuracy"])
    losses = model.fit(RAW[kind], Y, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    predicted = model.predict(RAW[kind], verbose=0)
    plain = e2e.strip(model)
    model.save(tmp_path / "modular.keras")
    plain.save(tmp_path / "plain.keras")
    model.save_weights(tmp_path / "modular.weights.h5")
    for name, cls in {"modular": type(model), "plain": Task}.items():
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert type(loaded) is cls
        np.testing.assert_array_equal(loaded.predict(RAW[kind], verbose=0), predicted)
    loaded = keras.saving.load_model(tmp_path / "modular.keras")
    assert loaded.training_mode.name == "local"
    assert list(loaded.boundaries) == ["block2"]
    assert loaded.dtype_policy.name == policy
    loaded.compile()
    loaded.fit(RAW[kind], Y, verbose=0)
    loaded.load_weights(tmp_path / "modular.weights.h5")
    np.testing.assert_array_equal(loaded.predict(RAW[kind], verbose=0), predicted)


def test_attributes_that_are_set_later_are_saved_and_stripped(tmp_path):
    model = e2e.modularize(task("image"), ["block1"])
    model.preprocessor = None
    model.note = [1, 2]
    scaled = IMAGES / np.float32(255)
    predicted = model.predict(scaled, verbose=0)
    plain = e2e.strip(model)
    assert plain.preprocessor is None
    assert plain.note == [1, 2]
    np.testing.assert_array_equal(plain.predict(scaled, verbose=0), predicted)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    assert loaded.preprocessor is None
    np.testing.assert_array_equal(loaded.predict(scaled, verbose=0), predicted)


def test_more_boundaries_join_those_that_are_there(tmp_path):
    once = e2e.modularize(task("image"), ["block1"])
    model = e2e.modularize(once, ["normed"])
    assert list(model.boundaries) == ["block1", "normed"]
    assert type(model) is type(once)
    predicted = model.predict(IMAGES, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    assert list(loaded.boundaries) == ["block1", "normed"]
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), predicted)


@keras.saving.register_keras_serializable("tests_own_class")
class Unnamed(keras.Model):
    """A class that leaves the names of its layers, and of a sum, to Keras."""

    def __init__(self, width, **kwargs):
        self.width = width
        x = keras.Input((6,))
        embedding = layers.Dense(width)
        h = embedding(x)
        h = h + layers.Dense(width, "relu")(h)
        h = h + embedding(layers.Dense(6)(h))
        super().__init__(x, layers.Dense(3)(h), **kwargs)

    def get_config(self):
        return {"width": self.width, "name": self.name}


@pytest.mark.parametrize("mode", ["local", "sequential"])
def test_names_that_keras_gave_may_be_others_when_it_is_loaded(mode, tmp_path):
    layers.Dense(1)
    base = Unnamed(8)
    dense = [x.name for x in base.layers if isinstance(x, layers.Dense)]
    sums = [o.name for o in base.operations if o.name.startswith("add")]
    end = dense[-1]
    model = e2e.modularize(
        base,
        {sums[0]: "barlow_twins", sums[1]: "prediction"},
        shared={dense[0]: sums[1]},
        remat=[end],
        training_mode=mode if mode == "local" else f"sequential:{end}",
    )
    model.compile("sgd", "mse")  # with which Keras saves the mode a second time
    names = list(model.boundaries)
    predicted = model.predict(X, verbose=0)
    model.save(tmp_path / "m.keras")
    keras.backend.clear_session()
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert list(loaded.boundaries) == names
    assert loaded.layers[1].name != base.layers[1].name
    last = loaded.modules[-1].name
    assert loaded.remat == [last]
    assert list(loaded.shared.values()) == [sums[1]]
    assert loaded.training_mode.module == (None if mode == "local" else last)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), predicted)


def test_a_clone_that_would_lose_the_class_is_refused():
    model = e2e.modularize(task("image"), ["block1"])
    with pytest.raises(ValueError, match="ModularTask cannot be made of a graph alone"):
        keras.models.clone_model(model)
    config = keras.saving.serialize_keras_object(model)  # as the error says
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        copy.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )


def test_diagnose_trains_a_task_on_raw_data():
    model = task("text")
    model.compile()
    before = model.get_weights()
    found = e2e.diagnose(model, TEXTS, Y, steps=10, update_freq=1, batch_size=8, verbose=0)
    assert len(found.verdicts) > 1
    assert all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize("kind", RAW)
def test_modules_are_evaluated_on_what_evaluate_would_see(kind):
    x = RAW[kind]
    model = e2e.modularize(task(kind), ["block1"], training_mode="local")
    model.compile(metrics=["accuracy"], steps_per_execution=3)
    model.fit(x, Y, verbose=0)
    small = {"batch_size": 8, "probe_data": (x, Y), "probe_epochs": 1}
    found = model.evaluate_modules(x, Y, **small)
    assert model.steps_per_execution == 3
    expected = model.evaluate(x, Y, verbose=0, return_dict=True)
    for name, value in found["head"].items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    prepared = model.preprocessor(x)
    model.preprocessor = None
    small["probe_data"] = (prepared, Y)
    again = model.evaluate_modules(prepared, Y, **small)
    assert again == found
    assert "probe_accuracy" in found["block1"]
    with pytest.raises(ValueError):  # what `evaluate` makes of bad data
        model.evaluate_modules(prepared, Y[:3])
    assert "make_test_function" not in vars(model)
    assert model.evaluate(prepared, Y, verbose=0, return_dict=True) == expected


def test_an_ensemble_of_tasks_is_refused():
    members = [task("image", 0), task("image", 1)]
    with pytest.raises(ValueError, match=r"Member 'net' \(Task\) overrides fit\(\)"):
        e2e.ensemble(members)
    graphs = [keras.Model(m.inputs, m.outputs) for m in members]  # as the error says
    found = e2e.ensemble(graphs).predict(IMAGES / np.float32(255), verbose=0)
    each = [m.predict(IMAGES, verbose=0) for m in members]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)


def test_names_that_a_modular_model_needs_are_refused():
    class Taken(keras.Model):
        def modules(self):
            return []

    model = graph(Taken, name="net")
    with pytest.raises(ValueError, match=r"Taken \('net'\) has \['modules'\] among"):
        e2e.modularize(model, ["a"])


# What cannot be honored.


def own(cls, method):
    """A class that overrides a method."""

    def overridden(self, *args, **kwargs):
        return getattr(super(made, self), method)(*args, **kwargs)

    made = type("Own", (cls,), {method: overridden})
    return made


class Code(keras.Model):
    """A model whose call is code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(8, "relu", name="a")
        self.out = layers.Dense(3, name="out")

    def call(self, x):
        return self.out(self.a(x))


class Doubled(keras.Model):
    """A graph of layers, and more than its graph."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def graph(cls=keras.Model, **kwargs):
    x = keras.Input((6,), name="x")
    hidden = layers.Dense(8, "relu", name="a")(x)
    return cls(x, layers.Dense(3, name="out")(hidden), **kwargs)


@pytest.mark.parametrize("method", STEP + CALLED)
def test_code_that_overrides_what_a_wrapper_would_not_run_is_refused(method):
    model = own(Code, method)(name="net")
    model(X)
    with pytest.raises(ValueError, match=rf"Own \('net'\) overrides {method}\(\)"):
        e2e.modularize(model, ["a"])
    if method in CALLED:  # as the error says

        class Plain(type(model)):
            locals()[method] = getattr(keras.Model, method)

        plain = Plain()
        plain(X)
        modular = e2e.modularize(plain, ["a"])
        np.testing.assert_array_equal(modular.predict(X, verbose=0), plain(X))


@pytest.mark.parametrize("method", ["__call__", *CALLED])
def test_what_a_sequential_overrides_is_refused(method):
    parts = [keras.Input((6,)), layers.Dense(8, name="a"), layers.Dense(3)]
    model = own(keras.Sequential, method)(parts, name="net")
    said = rf"Own \('net'\) overrides {method}\(\).*subclass of keras.Model"
    with pytest.raises(ValueError, match=said):
        e2e.modularize(model, ["a"])


@pytest.mark.parametrize("method", STEP)
def test_a_step_of_its_own_is_refused_in_a_graph(method):
    model = graph(own(keras.Model, method), name="net")
    with pytest.raises(ValueError, match=rf"Own \('net'\) overrides {method}\(\)"):
        e2e.modularize(model, ["a"])


@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
def test_a_nested_graph_with_a_call_of_its_own_stays_whole():
    inner = graph(Doubled, name="inner")
    x = keras.Input((6,), name="x")
    base = keras.Model(x, layers.Dense(2, name="last")(inner(x)))
    inside = e2e.modularize(base, ["a"])
    np.testing.assert_array_equal(inside.predict(X, verbose=0), base.predict(X, verbose=0))
    modular = e2e.modularize(base, ["inner"])
    np.testing.assert_array_equal(modular.predict(X, verbose=0), base.predict(X, verbose=0))
    chosen = e2e.modularize(base, 1)
    np.testing.assert_array_equal(chosen.predict(X, verbose=0), base.predict(X, verbose=0))
    assert list(chosen.boundaries) == ["inner"]
