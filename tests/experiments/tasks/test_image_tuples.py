"""The k-tuple parity task: its examples, its model, its ceiling."""

import itertools

import keras
import numpy as np
import pytest

from keras_e2e.experiments import tasks

# Each image holds its own number, so that a tuple tells where it comes from.
IMAGES = np.arange(50, dtype="float32")[:, None].repeat(3, axis=1)
LABELS = np.random.default_rng(1).integers(0, 10, 50)


def draw(k=3, n=200, seed=0, images=IMAGES, labels=LABELS):
    return tasks.parity_tuples(images, labels, k, n, seed)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_parity_is_that_of_the_count_of_odd_classes(k):
    data = draw(k)
    assert data.x.shape == (200, k, 3)
    assert data.parity.shape == (200, 1)
    assert data.symbols.shape == (200, k)
    assert data.x.dtype == data.parity.dtype == np.float32
    assert data.symbols.dtype == np.int32
    for images, parity, symbols in zip(*data, strict=True):
        classes = [int(LABELS[int(image[0])]) for image in images]
        assert symbols.tolist() == classes
        odd = sum(1 for c in classes if c in (1, 3, 5, 7, 9))
        assert parity.tolist() == [1.0 if odd in (1, 3, 5, 7, 9) else 0.0]


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_labels_may_be_any_integers(dtype):
    same = draw(labels=LABELS.astype(dtype))
    np.testing.assert_array_equal(same.symbols, draw().symbols)
    assert same.symbols.dtype == np.int32


def test_images_become_float32_unscaled():
    data = draw(images=IMAGES.astype("uint8"))
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x, draw().x)


def test_every_image_is_drawn_as_often_as_any_other_in_every_place():
    data = draw(k=2, n=50_000)
    for place in (0, 1):
        counts = np.bincount(data.x[:, place, 0].astype(int), minlength=len(IMAGES))
        assert abs(counts - 1000).max() < 200  # more than 6 standard deviations
    same = (data.x[:, 0, 0] == data.x[:, 1, 0]).mean()
    assert same == pytest.approx(1 / 50, abs=0.005)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_both_parities_of_the_digits_are_as_frequent(k):
    for x, y in tasks.load_digits():
        data = tasks.parity_tuples(x, y, k, 4000)
        assert data.parity.mean() == pytest.approx(0.5, abs=0.04)


def test_tuples_go_by_their_seed():
    first, again, other = draw(seed=0), draw(seed=0), draw(seed=1)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first.x != other.x).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0: expected an integer of at least 1"),
        ({"k": 2.0}, "k=2.0: expected an integer"),
        ({"k": True}, "k=True: expected an integer"),
        ({"n": 0}, "n=0: expected an integer of at least 1"),
        ({"seed": -1}, "seed=-1: expected an integer of at least 0"),
        ({"images": IMAGES[:, :, None]}, r"images has shape \(50, 3, 1\).*reshape"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images has shape \(0, 3\)"),
        ({"labels": LABELS[:49]}, r"labels has shape \(49,\).*50 images"),
        ({"labels": np.eye(10)[LABELS]}, r"labels has shape \(50, 10\).*argmax"),
        ({"labels": LABELS.astype(float)}, r"labels has dtype float64.*astype"),
        ({"labels": LABELS.astype(str)}, r"labels has dtype <U.*astype"),
        ({"labels": LABELS - 10}, "labels has the value -10.*Leave images without"),
    ],
)
def test_tuples_refuse_what_they_cannot_use(change, message):
    with pytest.raises(ValueError, match=message):
        draw(**change)


def test_hiding_keeps_as_many_examples_as_asked_and_leaves_them_alone():
    symbols = draw().symbols
    before = symbols.copy()
    for keep in (0, 1, 20, 200):
        hidden = tasks.hide_labels(symbols, keep)
        kept = (hidden >= 0).all(axis=1)
        assert kept.sum() == keep
        np.testing.assert_array_equal(hidden[kept], symbols[kept])
        assert (hidden[~kept] == -1).all()
        assert hidden.dtype == symbols.dtype
        assert not np.shares_memory(hidden, symbols)
    np.testing.assert_array_equal(symbols, before)


def test_a_larger_budget_of_labels_contains_a_smaller_one():
    symbols = draw().symbols
    kept = [tasks.hide_labels(symbols, keep, seed=3) >= 0 for keep in (5, 50, 150)]
    for small, large in itertools.pairwise(kept):
        assert (large | ~small).all()


def test_hiding_goes_by_its_seed():
    symbols = draw().symbols
    first, again, other = (tasks.hide_labels(symbols, 20, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("symbols", "keep", "seed", "message"),
    [
        ([[1], [2]], -1, 0, "keep=-1: expected an integer of at least 0"),
        ([[1], [2]], 1.0, 0, "keep=1.0: expected an integer"),
        ([[1], [2]], 3, 0, "keep=3: expected at most the 2 examples"),
        ([[1], [2]], 1, -1, "seed=-1: expected an integer of at least 0"),
        ([[1], [-1]], 1, 0, "symbols has negative labels, 1 of them"),
        (np.array([[1]], "uint8"), 1, 0, "dtype uint8.*astype"),
        ([[1.0]], 1, 0, "dtype float64.*astype"),
        (3, 1, 0, r"symbols has shape \(\)"),
    ],
)
def test_hiding_refuses_what_it_cannot_use(symbols, keep, seed, message):
    with pytest.raises(ValueError, match=message):
        tasks.hide_labels(symbols, keep, seed)


def test_the_model_has_its_layers_by_name_and_no_boundary():
    model = tasks.parity_model(3, 64)
    assert {layer.name: layer.output.shape[1:] for layer in model.layers} == {
        "images": (3, 64),
        "encoder_1": (3, 128),
        "encoder_2": (3, 64),
        "symbols": (3, 10),
        "flatten": (30,),
        "classifier_1": (128,),
        "classifier_2": (128,),
        "parity": (1,),
    }
    assert model.output_names == ["parity"]
    stock = (keras.layers.InputLayer, keras.layers.Dense, keras.layers.Flatten)
    assert {type(layer) for layer in model.layers} == set(stock)
    activations = [
        layer.activation.__name__
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
    ]
    assert activations == ["relu", "relu", "softmax", "relu", "relu", "sigmoid"]


def test_the_model_takes_other_sizes():
    model = tasks.parity_model(2, 784, encoder=(256, 128), classes=7, classifier=())
    assert [w.shape for w in model.weights if len(w.shape) == 2] == [
        (784, 256),
        (256, 128),
        (128, 7),
        (14, 1),
    ]
    assert tasks.parity_model(np.int64(2), np.int64(4), encoder=[np.int32(8)]).get_layer(
        "encoder_1"
    ).output.shape == (None, 2, 8)


def test_the_encoder_reads_each_image_by_itself_with_the_same_weights():
    model = tasks.parity_model(3, 8, encoder=(16,))
    read = keras.Model(model.input, model.get_layer("symbols").output)
    x = np.random.default_rng(0).normal(size=(4, 3, 8)).astype("float32")
    order = [2, 0, 1]
    symbols = np.asarray(read(x))
    np.testing.assert_allclose(np.asarray(read(x[:, order])), symbols[:, order], 1e-5)
    np.testing.assert_allclose(symbols.sum(axis=-1), 1.0, rtol=1e-5)
    assert np.abs(symbols[:, 0] - symbols[:, 1]).max() > 1e-3


def test_the_weights_go_by_the_models_seed_alone():
    models = []
    for global_seed, seed in ((0, 5), (1, 5), (1, 6)):
        keras.utils.set_random_seed(global_seed)
        models.append(tasks.parity_model(2, 8, encoder=(16,), seed=seed).get_weights())
    for first, again, other in zip(*models, strict=True):
        np.testing.assert_array_equal(first, again)
        if first.ndim == 2:
            assert (first != other).all()
        else:
            assert (first == 0).all()


def test_layers_of_one_shape_have_weights_of_their_own():
    model = tasks.parity_model(2, 16, encoder=(16, 16))
    first, second = (model.get_layer(f"encoder_{i}").kernel for i in (1, 2))
    assert (np.asarray(first) != np.asarray(second)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0: expected an integer of at least 1"),
        ({"d": 0}, "d=0: expected an integer of at least 1"),
        ({"classes": 0}, "classes=0: expected an integer of at least 1"),
        ({"seed": -1}, "seed=-1: expected an integer of at least 0"),
        ({"encoder": (8, 0)}, r"encoder\[1\]=0: expected an integer of at least 1"),
        ({"classifier": (0.5,)}, r"classifier\[0\]=0.5: expected an integer"),
        ({"encoder": 8}, r"encoder=8: expected a sequence.*\(128,\)"),
        ({"classifier": "8"}, "classifier='8': expected a sequence"),
    ],
)
def test_the_model_refuses_sizes_that_are_none(change, message):
    with pytest.raises(ValueError, match=message):
        tasks.parity_model(**{"k": 2, "d": 8, **change})


@pytest.mark.parametrize(
    ("error", "k", "expected"),
    [
        (0, 1, 1.0),
        (0, 7, 1.0),
        (0.5, 3, 0.5),
        (0.1, 1, 0.9),
        (0.1, 2, 0.82),
        (0.25, 3, 0.5625),
        (1, 1, 1.0),
        (0.75, 3, 0.5625),
    ],
)
def test_the_ceiling_has_the_values_worked_out_by_hand(error, k, expected):
    assert tasks.parity_ceiling(error, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_ceiling_is_the_chance_of_an_even_number_of_errors(k):
    error = 0.2
    even = sum(
        error ** sum(wrong) * (1 - error) ** (k - sum(wrong))
        for wrong in itertools.product((0, 1), repeat=k)
        if sum(wrong) % 2 == 0
    )
    assert tasks.parity_ceiling(error, k) == pytest.approx(even)


@pytest.mark.parametrize(
    ("error", "k", "message"),
    [
        (-0.1, 2, "error=-0.1: expected a rate from 0 to 1"),
        (12.0, 2, "error=12.0: .*Divide a percentage"),
        (float("nan"), 2, "error=nan: expected a rate"),
        (0.1, 0, "k=0: expected an integer of at least 1"),
    ],
)
def test_the_ceiling_refuses_what_is_no_rate(error, k, message):
    with pytest.raises(ValueError, match=message):
        tasks.parity_ceiling(error, k)
