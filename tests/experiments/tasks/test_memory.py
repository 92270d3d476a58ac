"""The key-value memory: its examples, its model, its labels."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.experiments import regimes, tasks


@pytest.fixture(scope="module")
def task():
    return tasks.memory(m=4, n=3000)


@pytest.fixture(scope="module")
def model(task):
    objectives = {
        name: e2e.objectives.IntermediateTarget(c.loss) for name, c in task.cuts.items()
    }
    model = e2e.modularize(task.build(0), objectives)
    model.compile("adam", task.loss, metrics=task.metrics, steps_per_execution=10)
    return model


def known():
    """The class of each digit by its pixels."""
    images, classes = (
        np.concatenate(part) for part in zip(*tasks.load_digits(), strict=True)
    )
    return {x.tobytes(): int(y) for x, y in zip(images, classes, strict=True)}


def test_the_answer_is_the_class_of_the_value_under_the_key_that_is_asked_for(task):
    classes = known()
    found = np.array([[classes[i.tobytes()] for i in row] for row in task.test.x[:300]])
    keys, queries, values = found[:, :4], found[:, 4], found[:, 5:]
    assert all(len(set(row)) == 4 for row in keys)
    labels = {name: label[:300] for name, label in task.test.labels.items()}
    np.testing.assert_array_equal(labels["symbols"], found[:, :5])
    slots = labels["attention"]
    np.testing.assert_array_equal((keys == queries[:, None]).argmax(1), slots)
    np.testing.assert_array_equal(task.test.y["answer"][:300], values[range(300), slots])


def test_the_query_is_another_image_than_the_key(task):
    for split in (task.train, task.validation, task.test):
        key = split.x[np.arange(split.size), split.labels["attention"]]
        assert (key != split.x[:, 4]).any(axis=1).all()


def test_slots_answers_and_classes_are_as_frequent_as_one_another(task):
    assert np.bincount(task.test.labels["attention"], minlength=4).min() > 850  # of 4,000
    for labels in (task.test.y["answer"], task.test.labels["symbols"]):
        shares = np.bincount(labels.ravel(), minlength=10) / labels.size
        assert abs(shares - task.chance).max() < 0.03


def test_no_image_occurs_in_two_splits(task):
    splits = (task.train, task.validation, task.test)
    images = [{i.tobytes() for row in split.x for i in row} for split in splits]
    assert not (images[0] & images[1] or images[0] & images[2] or images[1] & images[2])


def test_examples_and_weights_go_by_their_seeds():
    first, again, other = (tasks.memory(m=2, n=50, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert (first.train.x != other.train.x).any()
    weights = [first.build(seed).get_weights() for seed in (3, 3, 4)]
    for one, two, three in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.ndim == 1 or (one != three).any()  # biases begin at zero
    by_name = {v.path: v.numpy() for v in first.build(0).variables}
    assert (by_name["key/kernel"] != by_name["query/kernel"]).any()


def test_stand_ins_are_what_the_cut_points_would_put_out_without_error(task):
    plain = task.build(0)
    for name, cut in task.cuts.items():
        labels = task.test.labels[name]
        right = cut.ideal_activation(labels)
        assert right.shape[1:] == plain.get_layer(name).output.shape[1:]
        np.testing.assert_array_equal(right.argmax(-1), labels)
        assert right.shape[-1] == cut.classes


def test_the_answer_depends_on_nothing_but_the_value_that_gets_the_attention(task, model):
    rest = model.downstream_model("attention")
    x = task.test.x[:8]
    slots = task.test.labels["attention"][:8]
    attention = task.cuts["attention"].ideal_activation(slots)
    before = rest.predict_on_batch([x, attention])
    rows = np.arange(8)
    others = x.copy()
    others[:, :5] = 0.5
    others[rows, 5 + (slots + 1) % 4] = 0.5
    np.testing.assert_array_equal(rest.predict_on_batch([others, attention]), before)
    others[rows, 5 + slots] = 0.5
    assert (rest.predict_on_batch([others, attention]) != before).any(axis=1).all()


def test_attention_follows_the_keys_when_they_change_places(task):
    plain = task.build(0)
    part = keras.Model(plain.input, plain.get_layer("attention").output)
    x = task.test.x[:8]
    order = [2, 0, 3, 1]
    moved = x.copy()
    moved[:, :4] = x[:, order]
    before, after = part.predict_on_batch(x), part.predict_on_batch(moved)
    np.testing.assert_allclose(after, before[:, order], rtol=1e-5)
    np.testing.assert_allclose(before.sum(axis=1), 1.0, rtol=1e-5)


def test_attention_is_scaled_dot_product_attention(task):
    plain = task.build(0)
    outputs = [plain.get_layer(name).output for name in ("symbols", "attention")]
    symbols, attention = keras.Model(plain.input, outputs).predict_on_batch(task.test.x[:8])
    key, query = (plain.get_layer(name).get_weights()[0] for name in ("key", "query"))
    scores = np.einsum("nmi,ni->nm", symbols[:, :4] @ key, symbols[:, 4] @ query)
    expected = np.exp(scores / key.shape[1] ** 0.5)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(attention, expected, rtol=1e-4)


@pytest.mark.slow
def test_every_module_learns_from_labels_of_its_own(task, model):
    assert [m.name for m in model.modules] == ["symbols", "attention", "answer"]
    model.set_weights(task.build(0).get_weights())
    split = task.train
    regimes.train(model, "local", split.x, split.targets(), steps=400)
    plain = task.build(0)
    plain.set_weights(model.get_weights())
    middle = [plain.get_layer(name).output for name in task.cuts]
    seen = keras.Model(plain.input, [*middle, plain.output]).predict(task.test.x, verbose=0)
    targets = (*task.test.labels.values(), *task.test.y.values())
    right = [
        (values.argmax(-1) == labels).mean()
        for values, labels in zip(seen, targets, strict=True)
    ]
    assert min(right) > task.success  # a slot by chance is right in 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 1}, "m=1: expected an integer of at least 2"),
        ({"m": 11}, "m=11: the keys are of different classes.*Take 10 or less"),
        ({"n": 0}, "n=0: expected an integer of at least 1"),
        ({"seed": -1}, "seed=-1: expected an integer of at least 0"),
        ({"data": "cifar"}, "data='cifar': expected one of"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tasks.memory(**change)
