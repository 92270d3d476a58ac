"""`Transport`: an objective, and what it costs a module to move its input."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import (
    Batch,
    LocalObjective,
    Mixture,
    ModelSpec,
    Output,
    OutputSpec,
    Prediction,
    Transport,
)

RNG = np.random.default_rng(0)
B, C = 6, 3
LABELS = np.array([0, 2, 0, 1, 1, 0])
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 0.0, 1.5], "float32")


@keras.saving.register_keras_serializable("transport")
class Nothing(LocalObjective):
    """What is left is the penalty."""

    def loss(self, activation, batch):
        return ops.zeros_like(activation)


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def built(objective, activation, source, dtype="float32"):
    output = OutputSpec("out", keras.KerasTensor((None, C)), keras.activations.softmax)
    given = keras.KerasTensor((None, *source), dtype)
    spec = ModelSpec(given, [given], (output,))
    objective.build_for(keras.KerasTensor((None, *activation)), spec)
    return objective


def value(objective, h, x, sample_weight=None):
    loss = keras.losses.SparseCategoricalCrossentropy()
    output = Output("out", LABELS, sample_weight, loss)
    found = objective.compute_loss(
        ops.convert_to_tensor(h),
        Batch(x, (output,), None, sample_weight, ops.convert_to_tensor(x)),
    )
    return float(ops.convert_to_numpy(found))


# What stands at the place of the input: by hand, for every kind of change of shape.
PLACED = {
    "the same shape": ((5,), (5,), lambda x: x),
    "more channels": ((5,), (7,), lambda x: np.pad(x, [(0, 0), (0, 2)])),
    "fewer channels": ((5,), (3,), lambda x: x[:, :3]),
    "a map": ((4, 4, 2), (4, 4, 2), lambda x: x),
    "a stride of two": (
        (4, 6, 2),
        (2, 3, 5),
        lambda x: np.pad(x[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (0, 3)]),
    ),
    "positions that do not divide": ((5, 3), (2, 3), lambda x: x[:, [0, 2]]),
    "more positions": ((2, 2, 1), (4, 4, 1), lambda x: x.repeat(2, 1).repeat(2, 2)),
    "flattened": ((2, 3, 2), (12,), lambda x: x.reshape(B, 12)),
    "averaged over its positions": (
        (4, 3, 2),
        (3,),
        lambda x: np.pad(x.mean(axis=(1, 2)), [(0, 0), (0, 1)]),
    ),
    "a sequence": ((7, 2), (7, 2), lambda x: x),
}


@pytest.mark.parametrize("tau", [1.0, 0.25])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize("case", PLACED)
def test_the_penalty_is_the_mean_squared_displacement_over_twice_tau(case, weight, tau):
    source, activation, placed = PLACED[case]
    objective = built(Transport(Nothing(), tau=tau), activation, source)
    x, h = some(B, *source), some(B, *activation)
    each = np.square(h - placed(x)).reshape(B, -1).mean(axis=1) / (2 * tau)
    expected = (each * (1.0 if weight is None else weight)).mean()
    np.testing.assert_allclose(value(objective, h, x, weight), expected, rtol=1e-5)


def test_it_is_added_to_the_objective():
    objective = built(Transport("prediction", tau=2.0), (5,), (5,))
    (inner,) = objective.parts
    assert type(inner) is Prediction
    for v in inner.trainable_variables:
        v.assign(some(*v.shape))
    h, x = some(B, 5), some(B, 5)
    expected = value(inner, h, x, WEIGHT)
    expected += (np.square(h - x).mean(axis=1) * WEIGHT).mean() / 4
    np.testing.assert_allclose(value(objective, h, x, WEIGHT), expected, rtol=1e-5)


def test_sizes_that_are_known_only_when_it_runs():
    objective = built(Transport(Nothing()), (None, None, 2), (None, None, 2))
    x, h = some(B, 6, 4, 2), some(B, 3, 2, 2)
    expected = np.square(h - x[:, ::2, ::2]).mean() / 2
    np.testing.assert_allclose(value(objective, h, x), expected, rtol=1e-5)


def test_masked_positions_do_not_count():
    x = layers.Masking()(some(2, 4, 3) * np.array([1, 1, 0, 0])[None, :, None])
    mask = np.array([True, True, False, False])
    objective = built(Transport(Nothing()), (4, 3), (4, 3))
    h = layers.Activation("tanh")(x)
    h = layers.Dense(3)(h)
    batch = Batch(x, (), None, None, x)
    found = objective.compute_loss(h, batch)
    moved = np.square(ops.convert_to_numpy(h) - ops.convert_to_numpy(x)).mean(axis=-1)
    expected = moved[:, mask].mean() / 2
    np.testing.assert_allclose(float(ops.convert_to_numpy(found)), expected, rtol=1e-5)


OBJECTIVES = ["prediction", "sim", "predsim", "supcon", "reconstruction", "vicreg"]


@pytest.mark.parametrize("inner", [*OBJECTIVES, {"sim": 0.5, "pred": 2.0}, "infopro"])
def test_it_asks_for_what_the_objective_asks_for(inner):
    objective, alone = Transport(inner), e2e.objectives.get(inner)
    assert objective.requires_labels == alone.requires_labels
    assert objective.requires_targets == alone.requires_targets
    assert len(objective.extra_inputs()) == len(alone.extra_inputs())


def test_a_mixture_may_hold_it():
    x, h = some(B, 5), some(B, 5)
    outer = built(Mixture({Transport(Nothing()): 3.0}), (5,), (5,))
    np.testing.assert_allclose(value(outer, h, x), 1.5 * np.square(h - x).mean(), rtol=1e-5)


def network(**first):
    return keras.Sequential(
        [
            keras.Input((5,), **first),
            layers.Dense(5, activation="tanh", name="a"),
            layers.Dense(5, activation="tanh", name="b"),
            layers.Dense(C, activation="softmax", name="out"),
        ]
    )


@pytest.mark.parametrize("mode", ["local", "deep_supervision", "sequential:b"])
def test_a_small_tau_holds_the_modules_where_their_inputs_are(mode):
    x = np.tanh(some(64, 5)) * 0.1
    y = RNG.integers(0, C, 64)
    moved = {}
    for tau in (1e3, 1e-3):
        keras.utils.set_random_seed(0)
        objectives = {name: Transport(tau=tau) for name in "ab"}
        model = e2e.modularize(network(), objectives, training_mode=mode)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=16, epochs=60, verbose=0)
        record = model.forward_record(x)
        a, b = (ops.convert_to_numpy(record.activations(name)[0]) for name in ("a", "b"))
        moved[tau] = np.square(b - a).mean()
    assert moved[1e-3] < moved[1e3] / 10


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_that_are_unknown_in_a_graph(jit_compile):
    image = keras.Input((None, None, 2))
    a = layers.Conv2D(3, 3, strides=2, padding="same", name="a")(image)
    b = layers.Conv2D(3, 3, padding="same", name="b")(a)
    pooled = layers.GlobalAveragePooling2D()(b)
    base = keras.Model(image, layers.Dense(C, activation="softmax")(pooled))
    model = e2e.modularize(base, 2, objective="transport", training_mode="local")
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    for size in (5, 8):
        assert np.isfinite(model.train_on_batch(some(B, size, size, 2), LABELS))


def test_heads_exits_and_metrics_are_those_of_the_objective():
    objective = Transport(Prediction("mlp", metrics=["accuracy"]))
    model = e2e.modularize(network(), {"a": objective}, training_mode="local")
    model.compile("sgd", "sparse_categorical_crossentropy")
    logs = model.fit(some(B, 5), LABELS, verbose=0).history
    assert "a_accuracy" in logs
    found = model.evaluate_modules(some(B, 5), LABELS)
    assert np.isfinite(found["a"]["loss"])


def test_saved_and_loaded(tmp_path):
    objective = Transport({"sim": 0.5, Prediction("mlp"): 1.0}, tau=3, weight=0.5)
    model = e2e.modularize(network(), {"a": objective}, training_mode="local")
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = some(B, 5)
    model.fit(x, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.modules[0].objective
    assert type(again) is Transport and again.tau == 3.0 and again.weight == 0.5
    assert again.get_config() == objective.get_config()
    first, second = (m.train_on_batch(x, LABELS) for m in (model, loaded))
    np.testing.assert_allclose(first, second, rtol=1e-6)


# What makes no sense


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Transport(tau=0), ["Transport: tau", "0", "above 0"]),
        (lambda: Transport(tau=-1.0), ["Transport: tau", "-1.0"]),
        (lambda: Transport(tau=float("nan")), ["Transport: tau", "nan"]),
        (lambda: Transport(tau="1"), ["Transport: tau", "'1'"]),
        (lambda: Transport(None), ["Transport", "None", "'prediction'"]),
        (lambda: Transport("predictoin"), ["'predictoin'", "'prediction'"]),
        (lambda: Transport("feedback_alignment"), ["FeedbackAlignment", "signal", "alone"]),
        (lambda: Transport(Prediction(weight=2.0)), ["Prediction", "factor"]),
        (lambda: Transport(Prediction(reach=2)), ["Prediction", "reach", "whole"]),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError) as caught:
        make()
    for phrase in said:
        assert phrase in str(caught.value)


def test_the_advice_on_a_weight_and_a_reach_works():
    objective = Transport({Prediction(): 2.0}, reach=2)
    h, x = some(B, 5), some(B, 5)
    (mixture,) = built(objective, (5,), (5,)).parts
    expected = 2 * value(mixture.parts[0], h, x) + np.square(h - x).mean() / 2
    np.testing.assert_allclose(value(objective, h, x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "dtype", "activation"),
    [
        ((4,), "int32", (4, 5)),
        ((5,), "int32", (5,)),
        ((1,), "string", (5,)),
        ((7,), "float32", (4, 4, 2)),
        ((32,), "float32", (4, 4, 2)),
        ((4, 4, 2), "float32", (16, 2)),
    ],
    ids=str,
)
def test_inputs_that_an_activation_cannot_be_moved_from(source, dtype, activation):
    with pytest.raises(ValueError) as caught:
        built(Transport(Nothing()), activation, source, dtype)
    for phrase in ["Transport", dtype, str((None, *source)), "Nothing", "alone"]:
        assert phrase in str(caught.value)


def test_several_inputs():
    left, right = keras.Input((5,)), keras.Input((5,))
    joined = layers.Add(name="joined")([layers.Dense(5)(left), layers.Dense(5)(right)])
    base = keras.Model([left, right], layers.Dense(C)(joined))
    with pytest.raises(
        ValueError, match=r"'joined'.*Transport.*2 inputs.*Prediction alone"
    ):
        e2e.modularize(base, {"joined": "transport"})
    e2e.modularize(base, {"joined": Prediction()})


def test_the_advice_on_token_ids_works():
    tokens = keras.Input((4,), dtype="int32")
    embedded = layers.Embedding(9, 5, name="embed")(tokens)
    hidden = layers.Dense(5, name="hidden")(embedded)
    base = keras.Model(tokens, layers.Dense(C)(hidden))
    with pytest.raises(ValueError, match=r"'embed'.*Transport.*Prediction alone"):
        e2e.modularize(base, ["embed", "hidden"], objective="transport")
    model = e2e.modularize(base, {"embed": Prediction(), "hidden": "transport"})
    model.training_mode = "local"
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.train_on_batch(RNG.integers(0, 9, (B, 4)), RNG.integers(0, C, (B, 4)))
    assert np.isfinite(loss)
