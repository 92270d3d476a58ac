"""Objectives that do not fit a model are refused: named, with a way out."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import (
    DirectFeedbackAlignment,
    ForwardForward,
    InfoPro,
    IntermediateTarget,
    PredSim,
    Reconstruction,
    SimilarityMatching,
    SupervisedContrastive,
)

B, C = 6, 3
X = np.random.default_rng(0).normal(size=(B, 6)).astype("float32")
LABELS = np.array([0, 2, 0, 1, 1, 0])
BY_LABELS = {
    "SimilarityMatching": SimilarityMatching,
    "SupervisedContrastive": SupervisedContrastive,
    "ForwardForward": ForwardForward,
}


def flat(width=5, outputs=(("out", C),), shape=(6,)):
    inputs = keras.Input(shape)
    x = layers.Dense(width, name="code")(inputs)
    made = [layers.Dense(units, name=name)(x) for name, units in outputs]
    return keras.Model(inputs, made if len(made) > 1 else made[0])


def assert_refused(make, *said, error=ValueError):
    with pytest.raises(error) as caught:
        make()
    message = str(caught.value)
    missing = [phrase for phrase in said if phrase not in message]
    assert not missing, f"{missing} not in: {message}"


def test_similarities_of_single_values():
    assert_refused(
        lambda: e2e.modularize(flat(width=1), {"code": "sim"}),
        *["'code'", "SimilarityMatching", "(None, 1)", "wider", "Prediction()"],
    )


def test_similarities_of_a_narrow_map_of_unknown_size():
    base = flat(width=3, shape=(None, 6))
    objective = SimilarityMatching(num_classes=C, output_name="out")
    assert_refused(
        lambda: e2e.modularize(base, {"code": objective}),
        *["'code'", "SimilarityMatching", "3 channels", "(None, None, 3)"],
    )


def test_similarities_over_four_axes_of_positions():
    assert_refused(
        lambda: e2e.modularize(
            flat(shape=(2, 2, 2, 2, 6)), {"code": SimilarityMatching(num_classes=C)}
        ),
        *["'code'", "SimilarityMatching", "Flatten"],
    )


def test_later_positions_of_a_flat_activation():
    assert_refused(
        lambda: e2e.modularize(flat(), {"code": "infonce"}),
        *["'code'", "InfoNCE", "positions", "(None, 5)", "Reconstruction()"],
    )


def test_labels_written_over_an_input_that_is_too_small():
    assert_refused(
        lambda: e2e.modularize(flat(shape=(2,)), {"code": "forward_forward"}),
        *["'code'", "ForwardForward", "3 values", "(None, 2)", "Pad"],
    )


@pytest.mark.parametrize("kind", BY_LABELS)
def test_classes_of_a_model_that_has_none(kind):
    assert_refused(
        lambda: e2e.modularize(flat(outputs=[("score", 1)]), {"code": BY_LABELS[kind]()}),
        *[
            "'code'",
            kind,
            "'score'",
            "(None, 1)",
            f"{kind}(num_classes=2)",
            "without labels",
        ],
    )
    # The way out.
    model = e2e.modularize(
        flat(outputs=[("score", 1)]),
        {"code": BY_LABELS[kind](num_classes=2)},
        training_mode="local",
    )
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    assert np.isfinite(model.train_on_batch(X, LABELS[:, None] % 2))


@pytest.mark.parametrize("kind", ["SimilarityMatching", "SupervisedContrastive"])
def test_classes_by_position(kind):
    assert_refused(
        lambda: e2e.modularize(flat(shape=(4, 6)), {"code": BY_LABELS[kind]()}),
        *["'code'", kind, "'out'", "(None, 4, 3)"],
    )


@pytest.mark.parametrize("kind", [*BY_LABELS, "PredSim", "InfoPro"])
def test_one_of_several_outputs_must_be_named(kind):
    make = {**BY_LABELS, "PredSim": PredSim, "InfoPro": InfoPro}[kind]
    outputs = [("kind", C), ("size", 1)]
    named = {"PredSim": "SimilarityMatching", "InfoPro": "SupervisedContrastive"}
    assert_refused(
        lambda: e2e.modularize(flat(outputs=outputs), {"code": make()}),
        *["'code'", "'kind'", "'size'", f"{named.get(kind, kind)}(output_name='kind')"],
    )
    assert_refused(
        lambda: e2e.modularize(flat(outputs=outputs), {"code": make(output_name="zz")}),
        *["'code'", "'zz'", "'kind'", "'size'"],
    )
    model = e2e.modularize(
        flat(outputs=outputs), {"code": make(output_name="kind")}, training_mode="local"
    )
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", [cross_entropy, "mse"])
    assert np.isfinite(model.train_on_batch(X, [LABELS, LABELS])).all()


@pytest.mark.parametrize("kind", BY_LABELS)
@pytest.mark.parametrize("classes", [1, -3, 2.0, "3"], ids=str)
def test_numbers_of_classes_that_are_none(kind, classes):
    assert_refused(
        lambda: BY_LABELS[kind](num_classes=classes),
        *[f"{kind}: num_classes={classes!r}", "an integer of at least 2"],
    )


@pytest.mark.parametrize("kind", BY_LABELS)
def test_targets_that_are_no_classes(kind):
    # The task loss, which might complain first, is not computed here.
    objectives = {"code": BY_LABELS[kind]()}
    model = e2e.modularize(flat(), objectives, training_mode="sequential:code")
    model.compile("sgd", "mse")
    assert_refused(
        lambda: model.train_on_batch(X, np.zeros((B, C, 2))),
        *[kind, "'out'", "class indices", "one-hot", f"({B}, {C}, 2)"],
    )


@pytest.mark.parametrize("alias", ["sim", "supcon", "predsim", "forward_forward", "pred"])
def test_a_step_without_targets(alias):
    model = e2e.modularize(flat(), {"code": alias}, training_mode="sequential:code")
    model.compile("sgd")
    name = model.boundaries["code"].objective.name
    assert_refused(
        lambda: model.fit(X, verbose=0),
        "'code'",
        f"{name!r}",
        "targets",
        "Reconstruction()",
    )


@pytest.mark.parametrize(
    "make",
    [
        SimilarityMatching,
        PredSim,
        Reconstruction,
        DirectFeedbackAlignment,
        lambda: IntermediateTarget("mse"),
    ],
)
def test_one_objective_at_two_boundaries(make):
    objective = make()
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, name="a"),
            layers.Dense(5, name="b"),
            layers.Dense(C, name="out"),
        ]
    )
    assert_refused(
        lambda: e2e.modularize(base, {"a": objective, "b": objective}),
        *["'a'", "'b'", "share one objective", "of its own"],
    )
    # The way out.
    copy = type(objective).from_config(objective.get_config())
    model = e2e.modularize(base, {"a": objective, "b": copy})
    assert list(model.boundaries) == ["a", "b"]


@pytest.mark.parametrize("alias", ["sim", "supcon", "forward_forward", "infonce"])
def test_a_refusal_leaves_the_model_as_it_was(alias):
    base = flat(width=1, outputs=[("score", 1)])
    before = base.get_weights()
    with pytest.raises(ValueError):
        e2e.modularize(base, {"code": alias})
    model = e2e.modularize(base, {"code": "reconstruction"}, training_mode="local")
    for a, b in zip(before, base.get_weights(), strict=True):
        assert np.array_equal(a, b)
    model.compile("sgd", "mse")
    assert np.isfinite(model.train_on_batch(X, np.zeros((B, 1))))
