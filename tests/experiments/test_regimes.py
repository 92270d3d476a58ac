"""Plans of stages: what each stage trains, on what, and for how long."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.experiments import regimes
from keras_e2e.experiments.regimes import Stage, plans
from keras_e2e.objectives import IntermediateTarget

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
HIDDEN = (X[:, 0] > 0).astype("int32") + 2 * (X[:, 1] > 0).astype("int32")
Y = {"out": HIDDEN % 3, "a": HIDDEN}
IDEAL = {"a": np.eye(4, dtype="float32")[HIDDEN]}


@pytest.fixture(scope="module")
def models():
    """One model for all tests, and what it began with."""
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation="softmax", name="a"),
            layers.Dense(6, activation="relu", name="b"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": IntermediateTarget(), "b": "pred"})
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model._build_optimizer()
    return model, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


@pytest.fixture
def model(models):
    model, start = models
    for v, value in zip((*model.variables, *model.optimizer.variables), start, strict=True):
        v.assign(value)
    return model


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """Two layers inside of one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first = layers.Dense(4, name="first")
        self.second = layers.Dense(4, activation="softmax", name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 4))

    def call(self, x):
        return self.second(self.first(x))


def small(optimizer="adam", loss="sparse_categorical_crossentropy", **options):
    """A model of its own, of three modules, the first of which is a `Block`."""
    base = keras.Sequential(
        [
            keras.Input((4,)),
            Block(name="a"),
            layers.Dense(6, activation="relu", name="b"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": IntermediateTarget(), "b": "pred"})
    model.compile(optimizer, loss, **options)
    return model


def moved(model, plan, steps=4, **options):
    """The layers whose trainable weights a plan changes, and what it returned."""
    before = {x.name: x.get_weights() for x in model.layers if x.weights}
    options = {"ideal_activations": IDEAL, "window": 2, "batch_size": 16, **options}
    found = regimes.train(model, plan, X, Y, steps=steps, **options)
    after = {x.name: x.get_weights() for x in model.layers if x.weights}
    names = {
        name
        for name, old in before.items()
        if any((a != b).any() for a, b in zip(old, after[name], strict=True))
    }
    return names & {"a", "b", "norm", "out"}, found


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Stage(), {"a", "b", "norm", "out"}),
        (Stage(mode="sequential:a"), {"a"}),
        (Stage(mode="sequential:b"), {"b"}),
        (Stage(downstream_of="a"), {"b", "norm", "out"}),
        (Stage(frozen=("a",)), {"b", "norm", "out"}),
        (Stage(frozen=("b", "out")), {"a"}),
    ],
)
def test_a_stage_trains_what_it_says(model, stage, expected):
    names, found = moved(model, [stage])
    assert names == expected
    assert (found.steps, found.examples) == (4, 64)
    assert all(layer.trainable for layer in model.layers)


def test_a_frozen_module_trains_again_in_the_next_stage(model):
    names, _ = moved(model, [Stage(frozen=("a",)), Stage(mode="local")])
    assert names == {"a", "b", "norm", "out"}


def test_what_was_frozen_before_a_stage_is_frozen_after_it():
    model = small()
    block = model.get_layer("a")
    block.first.trainable = False
    block.second.bias.trainable = False
    before = [v.trainable for v in model.variables]
    flags = [x.trainable for x in (block, block.first, block.second)]
    start = model.get_weights()
    moved(model, [Stage(frozen=("a", "b")), Stage()])
    assert [v.trainable for v in model.variables] == before
    assert [x.trainable for x in (block, block.first, block.second)] == flags
    still = [
        v.path
        for v, old, new in zip(model.weights, start, model.get_weights(), strict=True)
        if (old == new).all()
    ]
    frozen = [*block.first.weights, block.second.bias]
    heads = [v for m in model.modules for v in m.head_variables]  # idle end to end
    assert set(still) == {v.path for v in (*frozen, *heads)}


def test_a_module_that_is_frozen_first_of_all_trains_in_a_later_stage():
    names, _ = moved(small(), [Stage(frozen=("a",)), Stage()])
    assert names == {"a", "b", "out"}


def plain_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def plain_metric(y_true, y_pred):
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


@pytest.mark.parametrize("plan", ["last_first", "independent"])
@pytest.mark.parametrize("loss", [plain_loss, lambda y, p: plain_loss(y, p)])
def test_losses_and_metrics_that_are_not_registered_do_in_every_stage(plan, loss):
    model = small(loss=loss, metrics=[plain_metric])
    ideal = {"b": np.ones((64, 6), "float32")}
    names, found = moved(model, plan, steps=6, ideal_activations=ideal)
    assert names == {"a", "b", "out"}
    downstream = [logs for logs in found.history if "downstream_loss" in logs]
    assert downstream and all("downstream_plain_metric" in logs for logs in downstream)


@pytest.mark.parametrize("plan", ["last_first", "independent"])
def test_a_module_keeps_its_kind_of_optimizer_in_every_stage(plan):
    # The rate of the last module is 0, so it must not move on ideal activations, either.
    sgd = keras.optimizers.SGD(0.0)
    model = small(e2e.ModuleOptimizers("adam", {"out": sgd, "a": "sgd"}))
    ideal = {"b": np.ones((64, 6), "float32")}
    names, found = moved(model, plan, steps=6, ideal_activations=ideal)
    assert names == {"a", "b"}
    assert any("downstream_loss" in logs for logs in found.history)


def test_what_cannot_be_compiled_again_is_refused_before_anything_is_trained():
    class Unlike(keras.optimizers.SGD):
        def __init__(self, rate, argument_without_config):
            super().__init__(rate)

    model = small(Unlike(0.1, 3))
    before = model.get_weights()
    with pytest.raises(TypeError, match=r"rate|argument"):
        moved(model, [Stage(), Stage(downstream_of="a")])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("plan", regimes.PLANS)
def test_every_plan_runs_for_as_many_steps(model, plan):
    ideal_activations = {**IDEAL, "b": np.ones((64, 6), "float32")}
    begin = int(model.optimizer.iterations)
    _, found = moved(model, plan, steps=8, ideal_activations=ideal_activations)
    assert [logs["step"] for logs in found.history] == [2, 4, 6, 8]
    downstream = sum("downstream_loss" in logs for logs in found.history) * 2
    assert int(model.optimizer.iterations) - begin == 8 - downstream
    assert bool(downstream) == (plan in ("last_first", "independent"))


def test_what_is_downstream_learns_on_ideal_activations_what_the_task_needs(model):
    _, found = moved(model, [Stage(downstream_of="a")], steps=400, window=100)
    assert found.history[-1]["downstream_accuracy"] > 0.95
    part = model.downstream_model("a")
    guess = part.predict([X, IDEAL["a"]], verbose=0).argmax(axis=1)
    assert (guess == Y["out"]).mean() > 0.95
    assert found.parameters == sum(np.prod(v.shape) for v in part.trainable_variables)


def test_the_same_seed_gives_the_same_weights(model):
    def weights(seed):
        for v, value in zip(model.variables, start, strict=True):
            v.assign(value)
        for v, value in zip(model.optimizer.variables, slots, strict=True):
            v.assign(value)
        moved(model, "local_then_end_to_end", seed=seed)
        return np.concatenate([np.ravel(w) for w in model.get_weights()])

    start = [v.numpy() for v in model.variables]
    slots = [v.numpy() for v in model.optimizer.variables]
    first, again, other = weights(0), weights(0), weights(1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ("end2end", {}, "plan='end2end'.*end_to_end"),
        ([], {}, "plan=.*expected one or more stages"),
        ([Stage(0.0)], {}, "share above 0"),
        ("local", {"steps": 5}, "steps=5.*multiple of window=2"),
        ("greedy", {"steps": 4}, "window for each of the 3 stages"),
        ([Stage(frozen=("x",))], {}, r"frozen=\['x'\].*The modules"),
        ([Stage(mode="sequential:x")], {}, "x"),
        ([Stage(downstream_of="b")], {}, "ideal_activations has"),
        (
            [Stage(), Stage(downstream_of="x")],
            {"ideal_activations": {"x": X}},
            "no boundary is named 'x'",
        ),
        ("local", {"steps": True}, "steps=True"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_moves(model, plan, options, message):
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        moved(model, plan, **options)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_transfer_weights_copies_what_fits_by_name_and_shape():
    one, two = (e2e.tasks.parity_model(k, d=5, seed=k) for k in (1, 2))
    names = regimes.transfer_weights(one, two)
    # The first layer of the classifier sees one image there and two here.
    assert names == ["encoder_1", "encoder_2", "symbols", "classifier_2", "parity"]
    for name in names:
        for ours, theirs in zip(
            one.get_layer(name).get_weights(),
            two.get_layer(name).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_a_downstream_model_is_what_lies_downstream_of_a_boundary(model):
    part = model.downstream_model("b")
    assert type(part).__module__.startswith("keras.")
    hidden = model.get_layer("b")(model.get_layer("a")(X))
    found = part.predict([X, np.asarray(hidden)], verbose=0)
    np.testing.assert_allclose(found, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"no boundary is named 'out'.*'b'"):
        model.downstream_model("out")


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (10, [1, 1, 3], [2, 2, 6]),
        (4, [1, 1, 1, 3], [1, 1, 1, 1]),
        (4, [0.5, 0.5, 1], [1, 1, 2]),
        (5, [9, 1, 1], [3, 1, 1]),
        (6, [1, 100, 1], [1, 4, 1]),
        (3, [1, 1], [2, 1]),
    ],
)
def test_each_stage_has_a_window(total, shares, expected):
    assert plans.divide(total, shares) == expected
