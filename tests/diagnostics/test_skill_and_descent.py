"""What a model knows from its inputs, and by how much its steps lower the loss."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_e2e as e2e
from keras_e2e.callbacks import ModuleDiagnostics
from keras_e2e.diagnostics import Descent, Skill
from tests.diagnostics.on_backends import gradients

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)).astype("float32")
Y = (X[:, :1] + 0.1 * RNG.normal(size=(24, 1))).astype("float32")


def model_of_two(outputs=1, activation=None, **compiled):
    base = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, "tanh", name="a"),
            layers.Dense(outputs, activation, name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": None})
    model.compile(**{"optimizer": keras.optimizers.SGD(0.05), "loss": "mse", **compiled})
    return model


def measured(model, quantity, x=X, y=Y, epochs=1, **fit):
    """What a callback measures at each step, each of all examples."""
    watch = ModuleDiagnostics(1, [quantity])
    count = len(keras.tree.flatten(x)[0])
    model.fit(x, y, count, epochs=epochs, verbose=0, callbacks=[watch], **fit)
    return watch.history


def test_skill_with_the_squared_error_is_the_share_of_the_variance():
    model = model_of_two()
    found = model.predict(X, verbose=0)
    expected = 1.0 - np.mean((Y - found) ** 2) / np.mean((Y - found.mean(0)) ** 2)
    history = measured(model, Skill())["skill"]
    np.testing.assert_allclose(history["out"], [expected], rtol=1e-5)
    assert np.isnan(history["a"]).all(), "the prediction is the last module's"


def test_skill_of_a_constant_prediction_is_zero_whatever_the_classes_frequencies():
    model = model_of_two(3, "softmax", loss="sparse_categorical_crossentropy")
    kernel = model.get_layer("out").kernel
    kernel.assign(np.zeros(kernel.shape))
    model.get_layer("out").bias.assign([2.0, 0.0, -1.0])
    classes = np.array([0] * 20 + [1] * 3 + [2])
    history = measured(model, Skill(), y=classes)
    np.testing.assert_allclose(history["skill"]["out"], [0.0], atol=1e-6)


def test_skill_rises_with_what_is_learned_and_penalties_do_not_count():
    model = model_of_two(optimizer=keras.optimizers.Adam(0.05))
    model.get_layer("a").kernel.regularizer = keras.regularizers.L2(1.0)
    history = measured(model, Skill(), epochs=100)["skill"]["out"]
    assert history[0] < 0.5 < 0.9 < history[-1] < 1.0


def test_skill_takes_sample_weights_and_several_outputs_and_adds_no_metric():
    inputs = keras.Input((5,))
    x = layers.Dense(4, "tanh", name="a")(inputs)
    base = keras.Model(inputs, {n: layers.Dense(1, name=n)(x) for n in ("u", "v")})
    y, weight = {"u": Y, "v": -Y}, np.linspace(0.0, 1.0, 24)
    logs = []
    for quantities in ([], [Skill()]):
        keras.utils.set_random_seed(0)
        model = e2e.modularize(keras.models.clone_model(base), {"a": None})
        model.set_weights(base.get_weights() or model.get_weights())
        model.compile("sgd", {"u": "mse", "v": "mse"}, {"u": 2.0, "v": 1.0})
        watch = [ModuleDiagnostics(1, quantities)] if quantities else []
        found = model.predict(X, verbose=0)
        fitted = model.fit(
            X, y, 24, sample_weight=weight, verbose=0, callbacks=watch, shuffle=False
        )
        logs.append(fitted.history)
    assert logs[0] == logs[1] and {"u_loss", "v_loss"} <= set(logs[0])

    def loss(of):
        return sum(
            factor * np.mean(weight * (y[n][:, 0] - of(found[n][:, 0])) ** 2)
            for n, factor in (("u", 2.0), ("v", 1.0))
        )

    expected = 1.0 - loss(lambda p: p) / loss(lambda p: np.full_like(p, p.mean()))
    (name,) = [m.name for m in model.modules if m.boundary is None]
    np.testing.assert_allclose(watch[0].history["skill"][name], [expected], rtol=1e-5)


def test_padding_counts_in_no_mean():
    tokens = RNG.integers(1, 5, (16, 6))
    tokens[:, 4:] = 0
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True)(inputs)
    x = layers.LSTM(4, return_sequences=True, name="a")(x)
    model = e2e.modularize(keras.Model(inputs, layers.Dense(1, name="out")(x)), {"a": None})
    model.compile("sgd", "mse")
    y = tokens[..., None].astype("float32")
    found = model.predict(tokens, verbose=0)[:, :4]
    error = np.mean((y[:, :4] - found) ** 2)
    expected = 1.0 - error / np.mean((y[:, :4] - found.mean(0)) ** 2)
    history = measured(model, Skill(), tokens, y)
    np.testing.assert_allclose(history["skill"]["out"], [expected], rtol=1e-4, atol=1e-6)


def test_a_batch_of_one_example_has_no_skill_for_its_prediction_is_the_mean():
    model = model_of_two()
    watch = ModuleDiagnostics(1, [Skill()])
    model.fit(X[:5], Y[:5], 2, verbose=0, callbacks=[watch], shuffle=False)
    known = np.isfinite(watch.history["skill"]["out"])
    assert known.tolist() == [True, True, False]  # two batches of two, one of one


@pytest.mark.parametrize("offset", [-0.1, -1.0, -100.0])
def test_skill_has_the_right_sign_where_the_loss_is_below_zero(offset):
    def shifted(y, prediction):
        return keras.ops.mean(keras.ops.square(y - prediction), -1) + offset

    model = model_of_two(optimizer=keras.optimizers.Adam(0.05), loss=shifted)
    kernel = model.get_layer("out").kernel
    kernel.assign(np.zeros(kernel.shape))
    history = measured(model, Skill(), epochs=60)["skill"]["out"]
    assert history[0] == pytest.approx(0.0, abs=1e-6)
    assert history[-1] > 0.004 and np.abs(history).max() <= 2.0


@pytest.mark.parametrize("mode", ["end_to_end", "local"])
def test_there_is_no_skill_without_a_compiled_loss(mode):
    inputs = keras.Input((5,))
    x = layers.Dense(4, activity_regularizer="l2", name="a")(inputs)
    base = keras.Model(inputs, layers.Dense(2, activity_regularizer="l2", name="out")(x))
    model = e2e.modularize(base, {"a": e2e.objectives.Reconstruction()})
    model.compile("sgd")
    model.training_mode = mode
    assert np.isnan(measured(model, Skill(), y=None)["skill"]["out"]).all()


def by_hand(model, steps, decay):
    """Descent and its cosine of each module at the last of so many steps of SGD."""
    updates = {m.name: [] for m in model.modules}
    for _ in range(steps):
        own = [m.trainable_variables for m in model.modules]
        taken = gradients(lambda: ops.mean((Y - model(X, training=True)) ** 2), own)
        for module, variables, found in zip(model.modules, own, taken, strict=True):
            for variable, gradient in zip(variables, found, strict=True):
                variable.assign_add(-0.05 * gradient)
            updates[module.name].append([-0.05 * np.asarray(g) for g in found])
    numbers = {}
    for name, found in updates.items():
        weights = decay ** np.arange(steps - 1)[::-1]
        before = [
            np.average([u[i] for u in found[:-1]], axis=0, weights=weights)
            for i in range(len(found[0]))
        ]
        gradient = [u / -0.05 for u in found[-1]]
        flat = [np.concatenate([v.ravel() for v in each]) for each in (gradient, before)]
        product = -float(flat[0] @ flat[1])
        numbers[name] = product, product / np.prod([np.linalg.norm(f) for f in flat])
    return numbers


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_descent_is_the_gradient_times_the_mean_of_the_updates_before(decay):
    model = model_of_two()
    start = model.get_weights()
    expected = by_hand(model, 4, decay)
    model.set_weights(start)
    history = measured(model, Descent(decay), epochs=4)
    for name, (descent, cosine) in expected.items():
        assert np.isnan(history["descent"][name][0]), "there was no step before"
        np.testing.assert_allclose(history["descent"][name][3], descent, rtol=1e-4)
        np.testing.assert_allclose(history["descent_cosine"][name][3], cosine, rtol=1e-4)


def test_the_descents_of_all_modules_add_up_to_the_fall_of_the_loss():
    model = model_of_two(optimizer=keras.optimizers.SGD(1e-3))
    watch = ModuleDiagnostics(1, [Descent(), e2e.diagnostics.ModuleLoss()])
    model.fit(X, Y, 24, epochs=20, verbose=0, callbacks=[watch])
    total = np.sum([*watch.history["descent"].values()], axis=0)[1:]
    fall = -np.diff(watch.history["loss"]["out"])
    np.testing.assert_allclose(total, fall, rtol=0.02)


def test_spaced_entries_stand_for_all():
    model = e2e.modularize(
        keras.Sequential(
            [keras.Input((5,)), layers.Dense(4000, name="a"), layers.Dense(1)]
        ),
        {"a": None},
    )
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    start = model.get_weights()
    whole = measured(model, Descent(), epochs=3)["descent"]["a"][2]
    model.set_weights(start)
    part = measured(model, Descent(entries=4000), epochs=3)["descent"]["a"][2]
    np.testing.assert_allclose(part, whole, rtol=0.1)
    assert part != whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"Descent: decay=1\.0: expected a number from 0 to below 1"),
        ({"decay": -0.1}, "Descent: decay=-0"),
        ({"decay": "x"}, "Descent: decay='x'"),
        ({"entries": 0}, "Descent: entries=0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Descent(**arguments)
