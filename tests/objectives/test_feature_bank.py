"""`FeatureBank`: a head that sees what all modules upstream returned."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.experiments import regimes
from keras_e2e.objectives import (
    Batch,
    FeatureBank,
    Mixture,
    ModelSpec,
    Output,
    OutputSpec,
    Prediction,
    Transport,
)

RNG = np.random.default_rng(0)
B, C = 4, 3


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def conv(filters, name, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", activation="tanh", name=name, **kwargs)


def segmenter(size=8):
    """Features of three sizes, and the way back to that of the image."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((size, size, 2)),
            conv(4, "fine"),
            conv(5, "half", strides=2),
            conv(6, "quarter", strides=2),
            layers.UpSampling2D(4),
            layers.Dense(C, activation="softmax", name="map"),
        ]
    )


CUTS = ["fine", "half", "quarter"]


def data(n=B):
    return some(n, 8, 8, 2), RNG.integers(0, C, (n, 8, 8))


def modular(make=FeatureBank, mode="local", **kwargs):
    model = e2e.modularize(segmenter(), {n: make() for n in CUTS}, training_mode=mode)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", **kwargs)
    return model


def test_each_bank_holds_what_comes_before():
    banks = [m.objective.bank for m in modular().modules[:-1]]
    assert banks == [(), ("fine",), ("fine", "half")]


def built(objective, activation, target, **earlier):
    out = OutputSpec("out", keras.KerasTensor((None, *target)), keras.activations.softmax)
    x = keras.KerasTensor((None, 9))
    earlier = {k: keras.KerasTensor((None, *shape)) for k, shape in earlier.items()}
    spec = ModelSpec(x, [x], (out,), earlier=earlier)
    objective.build_for(keras.KerasTensor((None, *activation)), spec)
    return objective


def value(objective, h, labels, weight=None, **earlier):
    loss = keras.losses.SparseCategoricalCrossentropy()
    batch = Batch(
        some(B, 9),
        (Output("out", labels, weight, loss),),
        None,
        weight,
        None,
        earlier={k: ops.convert_to_tensor(v) for k, v in earlier.items()},
    )
    found = objective.compute_loss(ops.convert_to_tensor(h), batch)
    return float(ops.convert_to_numpy(found))


def cross_entropy(logits, labels):
    logits = logits - logits.max(axis=-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]


def random_weights(objective):
    """Kernel and bias of each projection, in the order of the bank, and of the head."""
    (network,) = objective.networks
    for v in network.weights:
        v.assign(0.3 * some(*v.shape))  # no probability that Keras would clip
    names = [f"project_{i}" for i in range(len(objective.bank) + 1)]
    read = [network.get_layer(name) for name in names] + [network.layers[-1]]
    return [ops.convert_to_numpy(v) for layer in read for v in layer.weights]


def test_a_map_by_hand():
    objective = built(FeatureBank(5, head="linear"), (4, 4, 3), (4, 4, C), a=(4, 4, 2))
    own, own_bias, first, first_bias, last, last_bias = random_weights(objective)
    h, a = some(B, 4, 4, 3), some(B, 4, 4, 2)
    labels = RNG.integers(0, C, (B, 4, 4))
    logits = (h @ own + own_bias + a @ first + first_bias) @ last + last_bias
    expected = cross_entropy(logits, labels).mean()
    np.testing.assert_allclose(value(objective, h, labels, a=a), expected, rtol=1e-4)


def test_a_coarse_feature_is_resized_and_a_vector_is_added_everywhere():
    objective = built(FeatureBank(5, head="linear"), (1, 1, 3), (4, 4, C), a=(7,))
    own, own_bias, first, first_bias, last, last_bias = random_weights(objective)
    h, a = some(B, 1, 1, 3), some(B, 7)
    labels = RNG.integers(0, C, (B, 4, 4))
    together = h @ own + own_bias + (a @ first + first_bias)[:, None, None]
    logits = np.broadcast_to(together @ last + last_bias, (B, 4, 4, C))
    expected = cross_entropy(logits, labels).mean()
    np.testing.assert_allclose(value(objective, h, labels, a=a), expected, rtol=1e-4)


def test_one_label_for_all_by_hand():
    objective = built(FeatureBank(5, head="linear"), (7,), (C,), a=(4, 4, 2), b=(6, 3))
    own, own_bias, *rest = random_weights(objective)
    a_kernel, a_bias, b_kernel, b_bias, last, last_bias = rest
    h, a, b = some(B, 7), some(B, 4, 4, 2), some(B, 6, 3)
    labels, weight = RNG.integers(0, C, B), np.array([1, 0, 2, 0.5], "float32")
    together = h @ own + own_bias + a.mean(axis=(1, 2)) @ a_kernel + a_bias
    together = together + b.mean(axis=1) @ b_kernel + b_bias
    expected = (cross_entropy(together @ last + last_bias, labels) * weight).mean()
    found = value(objective, h, labels, weight, a=a, b=b)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_segmenter_learns(jit_compile):
    x = some(32, 8, 8, 2)
    y = (x[..., 0] > 0).astype("int32") + (x[..., 1] > 0)
    model = modular(jit_compile=jit_compile)
    model.optimizer.learning_rate = 0.5
    before = model.evaluate_modules(x, y)
    model.fit(x, y, batch_size=8, epochs=15, verbose=0)
    after = model.evaluate_modules(x, y)
    for name in CUTS:
        assert after[name]["loss"] < 0.8 * before[name]["loss"], name


def test_the_modules_of_the_bank_are_not_trained_by_it():
    found = []
    for last in (FeatureBank, Prediction):  # of "quarter", which the first do not see
        model = e2e.modularize(
            segmenter(),
            {"fine": Prediction(), "half": Prediction(), "quarter": last()},
            training_mode=e2e.TrainingMode("local", weights={"quarter": 5.0}),
        )
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        for module in model.modules[:2]:
            for v in module.head_variables:
                spread = np.linspace(-1, 1, int(np.prod(v.shape)))
                v.assign(spread.reshape(v.shape).astype("float32"))
        model.train_on_batch(np.ones((B, 8, 8, 2), "float32"), np.zeros((B, 8, 8)))
        found.append([ops.convert_to_numpy(model.get_layer(n).kernel) for n in CUTS[:2]])
    for with_bank, without in zip(*found, strict=True):
        np.testing.assert_allclose(with_bank, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixture({FeatureBank(): 1.0, "reconstruction": 0.1}),
        lambda: Transport("feature_bank"),
    ],
)
def test_in_a_mixture_and_with_transport(make):
    model = modular(make)
    assert np.isfinite(model.train_on_batch(*data()))


def test_saved_and_loaded(tmp_path):
    model = modular(lambda: FeatureBank(7, head="conv1", weight=0.5))
    x, y = data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.modules[2].objective
    assert type(again) is FeatureBank and again.bank == ("fine", "half")
    assert again.get_config() == model.modules[2].objective.get_config()
    first, second = (m.train_on_batch(x, y) for m in (model, loaded))
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_in_half_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = modular()
        x, y = data()
        assert np.isfinite(model.train_on_batch(x, y))
        (network,) = model.modules[2].objective.networks
        assert network.outputs[0].dtype == "float32"
    finally:
        keras.config.set_dtype_policy(policy)


def test_it_is_no_early_exit():
    model = modular()
    assert model.modules[1].objective.exits(()) == ()
    with pytest.raises(ValueError, match="half"):
        model.early_exit_model("half")


# What makes no sense


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: FeatureBank(0), ValueError, "FeatureBank: channels=0"),
        (lambda: FeatureBank("many"), ValueError, "FeatureBank: channels='many'"),
        (lambda: FeatureBank(head="conv2"), ValueError, "'conv2'.*'conv1'"),
        (lambda: FeatureBank(head=layers.Dense(3)), TypeError, "FeatureBank.head=.*kind"),
        (lambda: FeatureBank(metrics=["accuracy"]), ValueError, "metrics.*Prediction"),
        (lambda: FeatureBank(loss="zz"), ValueError, "loss='zz'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_maps_of_unknown_size_are_refused():
    image = keras.Input((None, None, 2))
    h = conv(5, "half", strides=2)(conv(4, "fine")(image))
    base = keras.Model(image, layers.Dense(C)(layers.UpSampling2D()(h)))
    with pytest.raises(ValueError, match=r"'fine'.*feature bank.*fixed size"):
        e2e.modularize(base, ["fine", "half"], objective="feature_bank")


@pytest.mark.parametrize("make", [FeatureBank, lambda: Transport("feature_bank")])
def test_a_cached_stage_that_does_not_run_the_bank_is_refused_before_it_begins(make):
    model = modular(make)
    before = [ops.convert_to_numpy(v).copy() for v in model.variables]
    said = r"cache.*'quarter'.*all modules upstream.*cache=None"
    with pytest.raises(ValueError, match=said):
        regimes.train(model, "greedy", *data(16), steps=8, window=2, cache="memory")
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


def test_the_advice_works():
    found = regimes.train(modular(), "greedy", *data(16), steps=8, window=2, batch_size=8)
    assert found.steps == 8 and np.isfinite(found.history[-1]["loss"])
