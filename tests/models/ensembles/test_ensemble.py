"""Ensembles: votes and scores by hand, and one switch from independent to joint."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e.models.ensembles import (
    MajorityVote,
    bootstrap_indices,
    ensemble,
    evaluate_ensemble,
    expected_calibration_error,
    scores,
)

CLASSES = 3


def member(name="m", units=CLASSES, activation="softmax"):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh", name="hidden"),
            layers.Dense(units, activation=activation, name="out"),
        ],
        name=name,
    )


def data(n=24):
    random = np.random.default_rng(0)
    return random.normal(size=(n, 4)).astype("float32"), random.integers(0, CLASSES, n)


def copies(models):
    """The same models with weights of their own."""
    made = [keras.models.clone_model(model) for model in models]
    for copy, model in zip(made, models, strict=True):
        copy.set_weights(model.get_weights())
    return made


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def train(model):
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)


def probabilities(*shape):
    values = np.random.default_rng(1).uniform(0.05, 1.0, size=shape)
    return (values / values.sum(axis=-1, keepdims=True)).astype("float32")


def same_weights(models, others):
    for model, other in zip(models, others, strict=True):
        for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


# Training


@pytest.mark.slow
def test_one_switch_is_between_independent_and_joint_training():
    members = [member() for _ in range(2)]
    stock = copies(members)
    model = compiled(ensemble(members, training_mode="local"))
    assert [module.name for module in model.modules] == ["m", "m_2", "vote"]
    train(model)
    for one in stock:
        train(compiled(one))
    same_weights(members, stock)

    # Jointly: as the stock model of their mean.
    for one, other in zip(stock, members, strict=True):
        one.set_weights(other.get_weights())
    x = keras.Input((4,))
    stock[1].name = "other"
    joint = compiled(keras.Model(x, layers.Average()([one(x) for one in stock])))
    compiled(model).training_mode = "end_to_end"
    before = members[0].get_weights()
    train(model)
    train(joint)
    same_weights(members, stock)
    assert not np.allclose(before[0], members[0].get_weights()[0])


def test_the_ensemble_shares_its_weights_with_the_members():
    members = [member() for _ in range(2)]
    members += [keras.Model(last.inputs, last.outputs, name="m") for last in [member()]]
    model = ensemble(members)
    x, _ = data()
    members[2].set_weights([w + 1 for w in members[2].get_weights()])
    mean = np.mean([one.predict(x, verbose=0) for one in members], axis=0)
    np.testing.assert_allclose(np.asarray(model(x)), mean, rtol=1e-5)
    assert [one.name for one in members] == ["m", "m", "m"]


# Votes


def test_weights_are_divided_by_their_sum():
    members = [member() for _ in range(3)]
    x, _ = data()
    first, _, last = (np.asarray(one(x)) for one in members)
    for weights in ([1, 0, 3], np.array([0.25, 0.0, 0.75], "float32")):
        predicted = np.asarray(ensemble(members, weights)(x))
        np.testing.assert_allclose(predicted, 0.25 * first + 0.75 * last, rtol=1e-5)


def by_counting(predictions):
    """The class with most votes; of several the one of the highest mean."""
    chosen = []
    for rows in np.swapaxes(predictions, 0, 1):
        counts = [sum(row.argmax() == c for row in rows) for c in range(rows.shape[1])]
        tied = [c for c, count in enumerate(counts) if count == max(counts)]
        chosen.append(max(tied, key=lambda c: rows[:, c].mean()))
    return np.array(chosen)


@pytest.mark.parametrize("members", [2, 3, 4])
def test_the_majority_decides_and_the_mean_decides_ties(members):
    predictions = probabilities(members, 400, CLASSES)
    predicted = np.asarray(MajorityVote()(list(predictions)))
    np.testing.assert_array_equal(predicted.argmax(axis=1), by_counting(predictions))
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0, rtol=1e-5)
    # One sigmoid unit says the same as a softmax over two classes.
    two = probabilities(members, 400, 2)
    both = np.asarray(MajorityVote()(list(two)))
    one = np.asarray(MajorityVote()(list(two[..., 1:])))
    np.testing.assert_allclose(one, both[:, 1:], rtol=1e-5)
    np.testing.assert_array_equal(one[:, 0] > 0.5, by_counting(two) == 1)


def test_a_majority_differs_from_the_mean_and_trains_as_the_mean():
    sure, wrong = [[0.0, 1.0]], [[0.6, 0.4]]
    vote, predictions = MajorityVote(), [np.array(p) for p in (sure, wrong, wrong)]
    np.testing.assert_allclose(np.asarray(vote(predictions)), [[0.6, 0.4]], rtol=1e-6)
    predicted = vote(predictions, training=True)
    np.testing.assert_allclose(np.asarray(predicted), [[0.4, 0.6]], rtol=1e-6)

    members = [member(), member()]
    model = compiled(ensemble(members, "majority"))
    before = members[0].get_weights()
    train(model)
    assert not np.allclose(before[0], members[0].get_weights()[0])


def test_the_vote_has_the_precision_of_the_probabilities():
    keras.config.set_dtype_policy("mixed_float16")
    members = [member(activation=None) for _ in range(2)]
    ends = [layers.Activation("softmax", dtype="float32")(m.outputs[0]) for m in members]
    graphs = [keras.Model(m.inputs, end) for m, end in zip(members, ends, strict=True)]
    for vote in ("mean", "majority", [1, 2]):
        assert ensemble(graphs, vote).get_layer("vote").compute_dtype == "float32"


# Models


@pytest.mark.parametrize("vote", ["mean", "majority", [1.0, 2.0]])
def test_an_ensemble_is_saved_and_loaded(vote, tmp_path):
    model = ensemble([member(), member()], vote, training_mode="local")
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x, y = data()
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(model(x)))
    assert loaded.training_mode == model.training_mode
    assert [module.name for module in loaded.modules] == ["m", "m_2", "vote"]
    if vote == "mean":
        assert evaluate_ensemble(loaded, x, y) == evaluate_ensemble(model, x, y)


def test_stripped_a_mean_is_a_stock_model():
    plain = e2e.strip(ensemble([member(), member()]))
    assert all(type(layer).__module__.startswith("keras.") for layer in plain.layers)


def test_members_may_be_modular_named_like_the_vote_and_take_several_inputs():
    def two_inputs():
        inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
        x = layers.Dense(4, name="code")(layers.Concatenate()([inputs["a"], inputs["b"]]))
        out = layers.Dense(CLASSES, activation="softmax", name="out")(x)
        return keras.Model(inputs, {"digit": out}, name="vote")

    members = [two_inputs(), e2e.modularize(two_inputs(), ["code"])]
    model = ensemble(members)
    assert list(model.boundaries) == ["vote_2", "vote_3"]
    x = {"a": np.ones((5, 2), "float32"), "b": np.ones((5, 3), "float32")}
    mean = np.mean([np.asarray(one(x)["digit"]) for one in members], axis=0)
    np.testing.assert_allclose(np.asarray(model(x)), mean, rtol=1e-5)
    found = evaluate_ensemble(model, x, np.zeros(5, int))
    assert list(found.members) == ["vote_2", "vote_3"] and found.num_examples == 5


class Code(keras.Model):
    def call(self, x):
        return x


def shared():
    one = member()
    return [one, keras.Model(one.inputs, one.outputs)]


def several_outputs():
    x = keras.Input((4,))
    return keras.Model(x, [layers.Dense(1)(x), layers.Dense(1)(x)])


@pytest.mark.parametrize(
    ("members", "vote", "message"),
    [
        (lambda: [member()], "mean", "members: found 1"),
        (lambda: [member(), "m"], "mean", "expected Keras models. Found: 'm'"),
        (lambda: [member(), Code()], "mean", "not a graph of layers"),
        (lambda: [keras.Sequential(), member()], "mean", "not a graph of layers"),
        (lambda: [several_outputs(), member()], "mean", "has 2 outputs"),
        (lambda: [member(), member(units=4)], "mean", "has the outputs"),
        (shared, "mean", r"0 \('m'\) and 1 .* share the weights"),
        (lambda: [member(), member()], "median", "expected 'mean', 'majority' or a list"),
        (lambda: [member(), member()], 0.5, "one for each of the 2 members"),
        (lambda: [member(), member()], [1, 2, 3], "one for each of the 2 members"),
        (lambda: [member(), member()], [[1], [2]], "one for each of the 2 members"),
        (lambda: [member(), member()], [1, -1], "not all of them 0"),
        (lambda: [member(), member()], [0, 0], "not all of them 0"),
        (lambda: [member(), member()], [1, float("nan")], "not all of them 0"),
    ],
)
def test_what_is_no_ensemble_is_refused(members, vote, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ensemble(members(), vote)


# Bags


def test_bags_are_drawn_with_replacement_and_repeat_with_the_seed():
    bags = bootstrap_indices(2000, num_members=3, seed=1)
    assert all(rows.shape == (2000,) for rows in bags)
    for rows in bags:
        counts = np.bincount(rows, minlength=2000)
        # Poisson with mean 1: the shares of examples that are drawn 0, 1, 2 times.
        shares = [np.mean(counts == times) for times in range(3)]
        np.testing.assert_allclose(shares, np.exp(-1) / np.array([1, 1, 2]), atol=0.04)
    assert not np.array_equal(bags[0], bags[1])
    np.testing.assert_array_equal(bags, bootstrap_indices(2000, 3, 1))
    np.testing.assert_array_equal(bags[:2], bootstrap_indices(2000, 2, 1))
    assert not np.array_equal(bags[0], bootstrap_indices(2000, 1, 2)[0])


@pytest.mark.parametrize("arguments", [(0, 2), (5, 0), (5, 2, -1), (5, 2.0)])
def test_bags_of_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="expected an integer of at least"):
        bootstrap_indices(*arguments)


# Numbers


def ece_by_hand(p, y, bins):
    """Guo et al. 2017, equations 2 to 5, bin by bin."""
    total = 0.0
    for b in range(1, bins + 1):
        inside = [i for i in range(len(y)) if (b - 1) / bins < p[i].max() <= b / bins]
        if inside:
            accuracy = np.mean([p[i].argmax() == y[i] for i in inside])
            confidence = np.mean([p[i].max() for i in inside])
            total += len(inside) / len(y) * abs(accuracy - confidence)
    return total


def test_scores_are_those_of_the_definitions():
    # Right as often at low confidence as at high: some bins are under, some above.
    p = probabilities(300, CLASSES)
    y = (p.argmax(axis=1) + (np.arange(300) % 5 < 2)) % CLASSES
    found = scores(p, y)
    wide = p.astype("float64")
    assert found.error == np.mean(p.argmax(axis=1) != y)
    assert found.ece == pytest.approx(ece_by_hand(wide, y, 15))
    loss = keras.losses.SparseCategoricalCrossentropy()(y, p)
    assert found.nll == pytest.approx(float(loss), rel=1e-5)
    assert expected_calibration_error(p, y, num_bins=4) == pytest.approx(
        ece_by_hand(wide, y, 4)
    )
    # The edge of a bin belongs to the bin below it.
    edge = np.array([[0.5, 0.25, 0.25], [0.375, 0.375, 0.25]])
    assert expected_calibration_error(edge, [0, 2], num_bins=4) == pytest.approx(0.0625)
    assert scores(p, np.eye(CLASSES)[y]) == scores(p, y[:, None]) == found
    two = probabilities(50, 2)
    for one in (two[:, 1], two[:, 1:]):
        assert scores(one, y[:50] % 2) == pytest.approx(scores(two, y[:50] % 2))


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[2.0, -1.0]], [0], "values from -1 to 2"),
        ([[0.3, 0.3]], [0], "add up to between 0.6 and 0.6"),
        ([[np.nan, 1.0]], [0], "values from nan"),
        (np.ones((2, 3, 1)), [0, 0], r"shape \(2, 3, 1\)"),
        (np.zeros((0, 3)), [], r"shape \(0, 3\)"),
        ([[0.5, 0.5]], [0, 1], r"labels has shape \(2,\)"),
        ([[0.5, 0.5]], [2], "values from 2 to 2"),
        ([[0.5, 0.5]], [-1], "values from -1 to -1"),
        ([[0.5, 0.5]], [0.5], "whole numbers from 0 to 1"),
    ],
)
def test_what_are_no_probabilities_or_labels_is_refused(p, y, message):
    with pytest.raises(ValueError, match=message):
        scores(p, y)


def test_calibration_needs_bins():
    with pytest.raises(ValueError, match="num_bins=0"):
        expected_calibration_error([[0.5, 0.5]], [0], num_bins=0)


def test_an_evaluation_scores_members_votes_and_diversity():
    members = [member() for _ in range(3)]
    x, y = data(50)
    found = evaluate_ensemble(members, x, y, batch_size=20)
    predicted = np.stack([np.asarray(one(x)) for one in members])
    wrong = [p.argmax(axis=1) != y for p in predicted]
    assert [s.error for s in found.members.values()] == [np.mean(w) for w in wrong]
    pairs = [(0, 1), (0, 2), (1, 2)]
    differ = [
        sum(bool(a) != bool(b) for a, b in zip(wrong[i], wrong[j], strict=True)) / 50
        for i, j in pairs
    ]
    assert found.disagreement == pytest.approx(sum(differ) / 3)
    assert found.disagreement > 0
    nobody = sum(all(w[i] for w in wrong) for i in range(50)) / 50
    assert found.oracle_error == pytest.approx(nobody)
    assert found.mean == pytest.approx(scores(predicted.mean(axis=0), y), rel=1e-5)
    assert found.majority.error == np.mean(by_counting(predicted) != y)
    assert found.num_examples == 50
    text = str(found)
    for value in (found.mean.error, found.mean.ece, found.disagreement, nobody):
        assert f"{value:.2%}" in text
    assert f"{found.majority.nll:.3f}" in text and "m_3" in text

    batches = tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(20)
    again = evaluate_ensemble(ensemble(members, "majority"), batches)
    assert list(again.members) == ["m", "m_2", "m_3"]
    assert again[1:] == found[1:]


def test_what_cannot_be_evaluated_is_refused():
    x, y = data()
    with pytest.raises(TypeError, match=r"'m' \(Sequential\)"):
        evaluate_ensemble(member(), x, y)
    with pytest.raises(TypeError, match="modules do not all return"):
        evaluate_ensemble(e2e.modularize(member(), ["hidden"]), x, y)
    logits = [member(activation=None) for _ in range(2)]
    with pytest.raises(ValueError, match="end in a softmax"):
        evaluate_ensemble(logits, x, y)
    with pytest.raises(ValueError, match="no labels"):
        evaluate_ensemble([member(), member()], x)


# The benchmark


def test_every_way_of_the_benchmark_has_the_same_compute(monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[3] / "benchmarks")
    import ensembles as script

    runs = []

    def fit(model, x, y, epochs, order):
        work.append(epochs * len(x) * model.count_params())
        orders.append(order)

    monkeypatch.setattr(script, "fit", fit)
    random = np.random.default_rng(0)
    x, y = random.uniform(size=(30, 784)).astype("float32"), random.integers(0, 10, 30)
    for way in script.WAYS:
        work, orders = [], []
        model = script.train(way, x, y, members=4, epochs=6, seed=0)
        runs.append({"training": way, "seed": 0, **script.measure(model, x, y)})
        assert sum(work) == pytest.approx(4 * 6 * 30 * 109_386, rel=0.01), way
        assert len(set(orders)) == len(orders)
    assert script.report(runs).row_count == len(script.WAYS)
