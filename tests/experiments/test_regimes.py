"""Plans of stages: what each stage trains, on what, and for how long."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.experiments import regimes
from keras_e2e.experiments.regimes import Stage
from keras_e2e.objectives import IntermediateTarget

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
HIDDEN = (X[:, 0] > 0).astype("int32") + 2 * (X[:, 1] > 0).astype("int32")
Y = {"out": HIDDEN % 3, "a": HIDDEN}
STAND_INS = {"a": np.eye(4, dtype="float32")[HIDDEN]}


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


def moved(model, plan, steps=4, **options):
    """The layers whose trainable weights a plan moves."""
    before = {x.name: x.get_weights() for x in model.layers if x.weights}
    options = {"ideal_activations": STAND_INS, "window": 2, "batch_size": 16, **options}
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
        (Stage(behind="a"), {"b", "norm", "out"}),
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


@pytest.mark.parametrize("plan", regimes.PLANS)
def test_every_plan_runs_for_as_many_steps(model, plan):
    ideal_activations = {**STAND_INS, "b": np.ones((64, 6), "float32")}
    begin = int(model.optimizer.iterations)
    _, found = moved(model, plan, steps=8, ideal_activations=ideal_activations)
    assert [logs["step"] for logs in found.history] == [2, 4, 6, 8]
    rest = sum("rest_loss" in logs for logs in found.history) * 2
    assert int(model.optimizer.iterations) - begin == 8 - rest
    assert bool(rest) == (plan in ("last_first", "independent"))


def test_the_rest_learns_on_stand_ins_what_the_task_needs(model):
    _, found = moved(model, [Stage(behind="a")], steps=400, window=100)
    assert found.history[-1]["rest_accuracy"] == 1.0
    rest = model.downstream_model("a")
    guess = rest.predict([X, STAND_INS["a"]], verbose=0).argmax(axis=1)
    assert (guess == Y["out"]).mean() > 0.95
    assert found.parameters == sum(np.prod(v.shape) for v in rest.trainable_variables)


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
        ([], {}, "needs stages"),
        ([Stage(0.0)], {}, "share above 0"),
        ("local", {"steps": 5}, "steps=5.*multiple of window=2"),
        ("step_by_step", {"steps": 4}, "window for each of the 3 stages"),
        ([Stage(frozen=("x",))], {}, r"frozen=\['x'\].*The modules"),
        ([Stage(mode="sequential:x")], {}, "x"),
        ([Stage(behind="b")], {}, "ideal_activations has"),
        ("local", {"steps": True}, "steps=True"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_moves(model, plan, options, message):
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        moved(model, plan, **options)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_carry_over_copies_what_fits_by_name_and_shape():
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


def test_the_rest_of_a_model_is_what_lies_behind_a_boundary(model):
    rest = model.downstream_model("b")
    assert type(rest).__module__.startswith("keras.")
    hidden = model.get_layer("b")(model.get_layer("a")(X))
    found = rest.predict([X, np.asarray(hidden)], verbose=0)
    np.testing.assert_allclose(found, model.predict(X, verbose=0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"no boundary is named 'out'.*'b'"):
        model.downstream_model("out")
