"""What `estimate_memory` says, and that it leaves a model alone."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e


def mlp(widths=(32, 48, 16), policy="float32", inputs=20):
    x = entered = keras.Input((inputs,), name="x")
    for number, width in enumerate(widths):
        x = layers.Dense(width, activation="relu", dtype=policy, name=f"d{number}")(x)
    return keras.Model(entered, layers.Dense(3, name="out")(x), name="mlp")


class Code(keras.Model):
    """Two layers in code."""

    def __init__(self):
        super().__init__(name="code")
        self.first = layers.Dense(32, activation="relu", name="first")
        self.second = layers.Dense(48, activation="relu", name="second")
        self.out = layers.Dense(3, name="out")

    def call(self, x):
        return self.out(self.second(self.first(x)))


def of_hidden(found, widths=(32, 48, 16), size=4, batch=32):
    """Bytes of what the hidden layers of an MLP make; the loss keeps three numbers more."""
    return found.activations - size * batch * sum(widths)


def test_an_mlp_keeps_what_its_layers_make():
    assert e2e.estimate_memory(mlp()).batch_size == 32
    found = e2e.estimate_memory(mlp(), batch_size=1024)
    assert of_hidden(found, batch=1024) == 3 * 1024 * 4
    assert found.model == "mlp"
    assert found.parameters == mlp().count_params()
    # The batch, what is kept, and at the end of the forward pass little more.
    assert found.activations < found.end_to_end < 2 * found.activations + 1024 * 20 * 4
    assert [len(split.modules) for split in found.splits] == [2, 4]
    for split in found.splits:
        assert sum(m.activations for m in split.modules) == found.activations
        assert sum(m.share for m in split.modules) == pytest.approx(1)
        assert split.largest.activations == max(m.activations for m in split.modules)


def test_it_goes_with_the_batch():
    small, large = (e2e.estimate_memory(mlp(), batch_size=n) for n in (640, 6400))
    assert large.activations == 10 * small.activations
    assert 9 < large.end_to_end / small.end_to_end < 10.5
    one, two = small.splits[0], large.splits[0]
    assert [m.parameters for m in one.modules] == [m.parameters for m in two.modules]


def test_half_the_bytes_in_half_precision():
    full = e2e.estimate_memory(mlp((64,) * 6), batch_size=4096)
    half = e2e.estimate_memory(mlp((64,) * 6, "mixed_float16"), batch_size=4096)
    assert 0.5 * full.activations < half.activations < 0.75 * full.activations


def test_more_modules_take_less():
    model = mlp((64,) * 16)
    found = e2e.estimate_memory(model, batch_size=8192, modules=[16, 4, 8, 4])
    assert [len(split.modules) for split in found.splits] == [4, 8, 16]
    peaks = [found.end_to_end, *(split.local for split in found.splits)]
    assert peaks == sorted(peaks, reverse=True)
    for split in found.splits:
        assert split.local < found.end_to_end * (split.largest.share + 0.2)
        assert max(m.peak for m in split.modules) <= split.local_one_apply
        assert split.checkpointing <= found.end_to_end


def test_gradients_may_wait_for_the_end_of_the_step():
    """With a small batch and large layers a local step then takes more."""
    found = e2e.estimate_memory(mlp((256,) * 8, inputs=256), batch_size=2, modules=4)
    gradients = 4 * found.parameters
    (split,) = found.splits
    assert found.end_to_end < 0.5 * gradients < gradients < split.local_one_apply
    assert split.local < 0.5 * gradients
    model = mlp((256,) * 8, inputs=256)
    model.compile(keras.optimizers.SGD(global_clipnorm=1.0), "mse")
    assert e2e.estimate_memory(model, batch_size=2).end_to_end > gradients


def test_frozen_layers_need_less():
    model = mlp()
    for frozen, kept in (([], "d0 d1 d2"), (["d0"], "d0 d1 d2"), (["d0", "d1"], "d1 d2")):
        for name in frozen:
            model.get_layer(name).trainable = False
        widths = [model.get_layer(name).units for name in kept.split()]
        assert of_hidden(e2e.estimate_memory(model), widths) == 3 * 32 * 4


def test_attention_keeps_its_weights():
    def of(length):
        x = inputs = keras.Input((length, 8))
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
        model = keras.Model(inputs, layers.Dense(1)(x))
        return e2e.estimate_memory(model, batch_size=4).activations

    # 2 heads of length x length numbers in 4 examples: what grows with the square.
    assert of(256) - 2 * of(128) >= 2 * 4 * 2 * 128 * 128 * 4


def test_a_recurrent_layer_keeps_each_step():
    def of(steps):
        inputs = keras.Input((steps, 8))
        model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(16)(inputs)))
        return e2e.estimate_memory(model, batch_size=8).activations

    assert of(40) - of(20) >= 20 * 8 * (4 * 16) * 4  # four gates
    assert of(40) == pytest.approx(2 * of(20), rel=0.1)


def towers():
    left, right = (keras.Input((6,), name=name) for name in ("left", "right"))
    a = e2e.ModuleBoundary(name="a")(layers.Dense(40, activation="relu")(left))
    b = e2e.ModuleBoundary(name="b")(layers.Dense(40, activation="relu")(right))
    x = layers.Dense(8, activation="relu")(layers.Concatenate()([a, b]))
    return e2e.ModularModel([left, right], layers.Dense(2, name="out")(x))


def test_towers_have_no_checkpoints():
    (split,) = e2e.estimate_memory(towers()).splits
    assert {m.name for m in split.modules} == {"a", "b", "out"}
    assert split.checkpointing is None
    assert split.modules[0].activations == 32 * 40 * 4


def test_a_boundary_may_be_crossed_twice():
    left, right = (keras.Input((6,), name=name) for name in ("left", "right"))
    encoder = layers.Dense(40, activation="relu", name="encoder")
    boundary = e2e.ModuleBoundary(name="code")
    joined = layers.Concatenate()([boundary(encoder(x)) for x in (left, right)])
    x = layers.Dense(8, activation="relu")(joined)
    model = e2e.ModularModel([left, right], layers.Dense(2, name="out")(x))
    (split,) = e2e.estimate_memory(model).splits
    assert [m.name for m in split.modules] == ["code", "out"]
    assert split.modules[0].activations == 2 * 32 * 40 * 4
    assert split.local < e2e.estimate_memory(model).end_to_end * 2


def test_modular_models_have_their_own_modules():
    model = e2e.modularize(mlp(), ["d0"])
    found = e2e.estimate_memory(model)
    (split,) = found.splits
    assert [m.name for m in split.modules] == ["d0", "out"]
    assert [m.parameters for m in split.modules] == [m.parameters for m in model.modules]
    assert found == e2e.estimate_memory(
        e2e.modularize(mlp(), ["d0"], training_mode="local")
    )
    others = e2e.estimate_memory(model, modules=[2, 4], balance="parameters")
    assert [len(s.modules) for s in others.splits] == [2, 4]
    assert others.splits[0].modules[0].name == "d1"
    assert others.end_to_end == found.end_to_end


def test_modules_that_are_recomputed_keep_less():
    def deep(**asked):
        return e2e.modularize(mlp((64,) * 12), ["d5"], **asked)

    plain = e2e.estimate_memory(deep(), batch_size=4096)
    again = e2e.estimate_memory(deep(remat=True), batch_size=4096)
    assert again.activations < 0.7 * plain.activations
    assert again.end_to_end < plain.end_to_end
    assert again.splits[0].local < plain.splits[0].local
    lines = []
    deep(remat=True).module_summary(lines.append, batch_size=4096)
    text = " ".join(lines[0].split())
    assert f"{again.splits[0].local / 2**20:.1f} MiB in mode 'local'" in text
    assert "(remat): d5, out" in text
    assert "(remat), in all figures: d5, out." in " ".join(str(again).split())
    assert again.splits[0].checkpointing is None
    # Other modules than its own are those of the model without it, end to end as well.
    others = e2e.estimate_memory(deep(remat=True), batch_size=4096, modules=[2])
    plainly = e2e.estimate_memory(deep(), batch_size=4096, modules=[2])
    assert others[:-1] == plainly[:-1] and "Without the remat" in others.notes[-1]


def test_code_is_looked_at_as_it_runs():
    code = Code()
    code(np.ones((2, 20), "float32"))
    found = e2e.estimate_memory(code, batch_size=16)
    assert found.splits == ()
    assert 0 <= of_hidden(found, (32, 48), batch=16) <= 3 * 16 * 4
    model = e2e.modularize(Code(), ["first"])
    model.examine(np.ones((2, 20), "float32"))
    (split,) = e2e.estimate_memory(model, batch_size=16).splits
    first = split.modules[0]
    assert (first.name, first.activations) == ("first", 16 * 32 * 4)


def test_nested_and_structured_models():
    inner = mlp()
    inputs = {"x": keras.Input((20,), name="x"), "z": keras.Input((3,), name="z")}
    x = layers.Concatenate()([inner(inputs["x"]), inputs["z"]])
    outputs = {"one": layers.Dense(2, name="one")(x), "two": layers.Dense(1, name="two")(x)}
    model = keras.Model(inputs, outputs)
    found = e2e.estimate_memory(model, batch_size=8)
    assert found.activations >= 8 * 4 * (32 + 48 + 16)


# Sizes


def open_sizes():
    inputs = keras.Input((None, 8), name="tokens")
    x = layers.Dense(16, activation="relu", name="wide")(inputs)
    return keras.Model(inputs, layers.Dense(1, name="out")(x), name="open")


def test_sizes_that_are_open_are_given():
    with pytest.raises(ValueError, match=r"'tokens' of 'open' has the shape \(None, 8\)"):
        e2e.estimate_memory(open_sizes())
    short, long = (
        e2e.estimate_memory(open_sizes(), input_shape=(n, 8), modules=2) for n in (10, 20)
    )
    assert long.activations == 2 * short.activations == 2 * 32 * 10 * (16 + 1) * 4
    by_name = e2e.estimate_memory(open_sizes(), input_shape={"tokens": (10, 8)}, modules=2)
    assert by_name == short


@pytest.mark.parametrize(
    "shape, said",
    [
        ((10, 9), r"does not fit the input 'tokens'.* shape \(None, 8\)"),
        ((10,), "does not fit"),
        ({"token": (10, 8)}, "no input 'token'. Did you mean 'tokens'"),
        ((0, 8), "at least 1"),
        ({"tokens": 10}, "expected a tuple"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        e2e.estimate_memory(open_sizes(), input_shape=shape)


def test_several_inputs_are_given_by_name():
    with pytest.raises(ValueError, match=r"\['left', 'right'\]\. Give a dict"):
        e2e.estimate_memory(towers(), input_shape=(6,))


def test_a_batch_size_may_be_fixed():
    inputs = keras.Input(batch_shape=(8, 4))
    model = keras.Model(inputs, layers.Dense(1)(inputs), name="fixed")
    assert e2e.estimate_memory(model).batch_size == 8
    assert e2e.estimate_memory(model, batch_size=8).batch_size == 8
    with pytest.raises(ValueError, match="batch_size=9: 'fixed' is made for batches of 8"):
        e2e.estimate_memory(model, batch_size=9)


# Refusals


@pytest.mark.parametrize(
    "asked, error, said",
    [
        ({"modules": 9}, ValueError, "'mlp' can be cut into at most 4 modules"),
        ({"modules": [2, 9]}, ValueError, "modules=9"),
        ({"modules": 1}, ValueError, "at least 2"),
        ({"modules": []}, ValueError, "at least one number"),
        ({"modules": "4"}, TypeError, "expected an integer or several"),
        ({"modules": 2.5}, TypeError, "expected an integer or several"),
        ({"balance": "bytes"}, ValueError, "'memory', 'parameters', 'time'"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"batch_size": True}, ValueError, "batch_size=True"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, error, said):
    with pytest.raises(error, match=said):
        e2e.estimate_memory(mlp(), **asked)


def test_what_is_no_model_or_not_built_is_refused():
    with pytest.raises(TypeError, match=r"needs a keras\.Model\. Found: Dense"):
        e2e.estimate_memory(layers.Dense(3))
    with pytest.raises(ValueError, match="'bare' is not built"):
        e2e.estimate_memory(keras.Sequential([layers.Dense(3)], name="bare"))
    with pytest.raises(
        ValueError, match="not known what the subclassed model 'code' takes"
    ):
        e2e.estimate_memory(Code())
    with pytest.raises(ValueError, match="modules of 'code' are not known yet"):
        e2e.estimate_memory(e2e.modularize(Code(), ["first"]))


def test_code_cannot_be_cut():
    code = Code()
    code(np.ones((2, 20), "float32"))
    with pytest.raises(ValueError, match=r"modules=\[2\]: .* 'code' has no graph"):
        e2e.estimate_memory(code, modules=2)


JAX = """
import keras, keras_e2e as e2e
x = inputs = keras.Input((4, 4))
for number in range(4):
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(1, 4)(x, x)])
    x = keras.layers.Dense(4, name=f"d{number}")(x)
base = keras.Model(inputs, x)
print([*e2e.modularize(base, 1, balance="memory").boundaries])
print([*e2e.modularize(base, 1, balance="time").boundaries])
model = e2e.modularize(base, ["d1"])
for ask in (lambda: e2e.estimate_memory(base), lambda: model.module_summary(batch_size=8)):
    try:
        ask()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.slow
def test_on_jax_cuts_are_balanced_and_estimates_refused():
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", JAX],
        capture_output=True,
        text=True,
        timeout=1800,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *cuts, plain, modular = done.stdout.splitlines()
    assert cuts == ["['d1']"] * 2
    assert plain.startswith("estimate_memory: the Keras backend is jax")
    assert modular.startswith("module_summary(batch_size=...): the Keras backend is jax")
    assert "KERAS_BACKEND=tensorflow" in plain


# Nothing is changed


def noisy():
    """A model with much that a pass could change."""
    x = inputs = keras.Input((8, 8, 2), name="x")
    x = layers.Conv2D(4, 3, activity_regularizer="l2", name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="drop")(layers.ReLU(name="relu")(x))
    x = layers.Dense(5, activation="gelu", name="dense")(layers.Flatten(name="flat")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    model.compile("adam", "mse")
    return model


def trained(look):
    keras.utils.set_random_seed(3)
    model = noisy()
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(32, 8, 8, 2)).astype("float32"), rng.normal(size=(32, 3))
    model.fit(x, y, verbose=0)
    if look:
        e2e.estimate_memory(model, modules=[2, 3])
    names = [layer.name for layer in model.layers], layers.Dense(2).name
    outputs = [tuple(layer.output.shape) for layer in model.layers]
    history = model.fit(x, y, epochs=2, verbose=0).history
    return model.get_weights(), history, names[0], outputs, len(model.losses)


def test_the_model_trains_on_as_if_it_had_not_been_looked_at():
    one, two = trained(False), trained(True)
    for before, after in zip(one[0], two[0], strict=True):
        np.testing.assert_array_equal(before, after)
    assert one[1:] == two[1:]


# What is shown


def test_what_is_shown():
    found = e2e.estimate_memory(mlp((64,) * 8), batch_size=1024, modules=[2, 4])
    text = str(found)
    said = " ".join(text.split())
    assert "Peak of a step of 'mlp' at batch size 1024, in MiB (of end to end, wh" in said
    assert "4 modules, modularize(model, 3): boundaries after d1, d3, d5; the" in said
    local = f"{found.splits[1].local / 2**20:.1f}"
    assert local in text and local in repr(found) and local in found._repr_html_()
    assert all(len(line) <= 80 for line in text.splitlines())
    tiny = e2e.estimate_memory(mlp((4,)), batch_size=2, modules=2)
    assert "in KiB (of end" in str(tiny) and ": KiB, end" in repr(tiny)
    one = str(e2e.estimate_memory(mlp((64,) * 8), modules=2))
    assert "Its modules" in one and "d3" in one
    loaded = json.loads(json.dumps(found.to_dict()))
    assert loaded["splits"][1]["modules"][0]["name"] == "d1"
    assert loaded["end_to_end"] == found.end_to_end


MEASURE = """
import keras, numpy as np, tensorflow as tf
import keras_e2e as e2e
from keras import layers
x = inputs = keras.Input((16, 16, 8))
for n in range(10):
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
model = keras.Model(inputs, x)
expected = e2e.estimate_memory(model, batch_size=256, modules=2).end_to_end
model.compile("sgd", "mse", jit_compile=False)
data = np.ones((256, 16, 16, 8), "float32"), np.ones((256, 3), "float32")
batches = iter(tf.data.Dataset.from_tensors(data).repeat())
model.make_train_function()
try:
    tf.config.experimental.get_memory_info("CPU:0")
except ValueError:  # "Allocator stats not available": it depends on the processor
    print(0, 0)
    raise SystemExit
peaks = []
for step in range(4):
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    tf.config.experimental.reset_memory_stats("CPU:0")
    model.train_function(batches)
    peaks.append(tf.config.experimental.get_memory_info("CPU:0")["peak"] - before)
print(min(peaks) / expected, max(peaks[1:]) / expected)
"""


@pytest.mark.slow
def test_the_estimate_is_near_what_is_measured():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    least, most = map(float, done.stdout.split()[-2:])
    if most == 0:
        pytest.skip("TensorFlow does not count the memory of this CPU")
    assert 0.85 < least <= most < 1.25


def test_a_model_of_a_strategy_is_refused_by_name():
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = e2e.modularize(mlp(), ["d0"])
    for ask in (
        lambda: e2e.estimate_memory(model),
        lambda: model.module_summary(print, batch_size=8),
    ):
        with pytest.raises(ValueError, match=r"under OneDeviceStrategy.*one device"):
            ask()


def test_open_sizes_of_several_inputs_are_asked_for_by_name():
    wide, deep = keras.Input((None, 2), name="wide"), keras.Input((3,), name="deep")
    both = layers.Concatenate()([layers.GlobalAveragePooling1D()(wide), deep])
    model = keras.Model([wide, deep], layers.Dense(2)(both))
    asked = r"estimate_memory\(model, input_shape=\{'wide': \(64, 2\)\}\)"
    with pytest.raises(ValueError, match=asked):
        e2e.estimate_memory(model)
    e2e.estimate_memory(model, input_shape={"wide": (64, 2)})


def test_it_counts_modules_as_modularize_cuts_them():
    """Two cuts of a U-Net count together: each closes the way around the other."""
    x = inputs = keras.Input((16, 16, 3))
    skips = []
    for name in "ab":
        skips.append(x := layers.Conv2D(4, 3, padding="same", name=name)(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(4, 3, padding="same", name="middle")(x)
    for name, skip in zip("cd", reversed(skips), strict=True):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
        x = layers.Conv2D(4, 3, padding="same", name=name)(x)
    model = keras.Model(inputs, layers.Conv2D(1, 1)(x))
    found = e2e.estimate_memory(model)
    for split in found.splits:
        names = [
            m.boundary.module
            for m in e2e.modularize(model, len(split.modules) - 1).modules[:-1]
        ]
        assert names == [m.name for m in split.modules[:-1]]
    with pytest.raises(ValueError, match="at most"):
        e2e.estimate_memory(model, modules=20)
