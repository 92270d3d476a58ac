"""The data sets: shapes, splits, and where Fashion-MNIST comes from."""

import gzip
import sys

import keras
import numpy as np
import pytest

from keras_e2e.experiments import tasks
from keras_e2e.experiments.tasks import datasets as data

SIZES = {"train": 5, "t10k": 3}


def rows(x):
    return {image.tobytes() for image in x}


def idx(array):
    """A gzipped idx file of unsigned bytes, written by the format's description."""
    header = bytes([0, 0, 8, array.ndim])
    header += b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.astype("uint8").tobytes())


def small_fashion_mnist():
    rng = np.random.default_rng(0)
    images = {s: rng.integers(0, 256, (n, 28, 28)) for s, n in SIZES.items()}
    images["train"][0, 0, :2] = [0, 255]
    labels = {s: rng.integers(0, 10, n) for s, n in SIZES.items()}
    return images, labels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in the place of the Debian package's, with a small data set."""
    images, labels = small_fashion_mnist()
    for split in SIZES:
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(idx(images[split]))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(idx(labels[split]))
    monkeypatch.setattr(data, "FASHION_MNIST_FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def no_download(monkeypatch):
    def load_data():
        raise Exception("URL fetch failure on https://example.org")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)


@pytest.fixture
def download(monkeypatch):
    """Keras's download, replaced by the small data set as Keras would give it."""
    images, labels = small_fashion_mnist()
    small = [(images[s].astype("uint8"), labels[s].astype("uint8")) for s in SIZES]
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: tuple(small))


def check_small(loaded):
    """Whether `loaded` is the small data set, flat and in [0, 1]."""
    images, labels = small_fashion_mnist()
    for (x, y), split in zip(loaded, SIZES, strict=True):
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        assert x.shape == (SIZES[split], 784)
        np.testing.assert_array_equal(y, labels[split])
        for image, pixels in zip(x, images[split], strict=True):
            np.testing.assert_allclose(image, pixels.ravel() / 255, rtol=1e-6)
    assert loaded[0][0][0, :2].tolist() == [0.0, 1.0]


def test_the_digits_are_flat_floats_between_zero_and_one():
    (x_train, y_train), (x_test, y_test) = tasks.load_digits()
    assert x_train.shape == (1437, 64)
    assert y_train.shape == (1437,)
    assert x_test.shape == (360, 64)
    assert y_test.shape == (360,)
    assert x_train.dtype == x_test.dtype == np.float32
    assert y_train.dtype == y_test.dtype == np.int32
    for x in (x_train, x_test):
        assert x.min() == 0.0
        assert x.max() == 1.0


def test_the_digits_keep_their_labels():
    datasets = pytest.importorskip("sklearn.datasets")
    known = {
        (x / 16).astype("float32").tobytes(): y
        for x, y in zip(*datasets.load_digits(return_X_y=True), strict=True)
    }
    for x, y in tasks.load_digits():
        assert [known[image.tobytes()] for image in x] == y.tolist()


def test_no_digit_is_in_training_and_test():
    (x_train, _), (x_test, _) = tasks.load_digits()
    assert len(rows(x_train) | rows(x_test)) == 1797


def test_the_classes_of_the_digits_have_the_same_shares_in_both_parts():
    (_, y_train), (_, y_test) = tasks.load_digits()
    train, test = np.bincount(y_train), np.bincount(y_test)
    assert (np.abs(test - 0.2 * (train + test)) < 1).all()


def test_the_split_of_the_digits_goes_by_its_seed():
    first, again, other = (tasks.load_digits(seed) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    assert rows(first[1][0]) != rows(other[1][0])


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None])
def test_the_digits_refuse_a_bad_seed(seed):
    with pytest.raises(ValueError, match=r"seed=.*expected an integer"):
        tasks.load_digits(seed)


def test_without_scikit_learn_the_digits_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-e2e\[demo\]'"):
        tasks.load_digits()


def test_fashion_mnist_is_read_from_the_package_without_a_download(folder, no_download):
    check_small(tasks.load_fashion_mnist())


def test_without_the_package_keras_downloads_fashion_mnist(tmp_path, monkeypatch, download):
    monkeypatch.setattr(data, "FASHION_MNIST_FOLDER", tmp_path / "absent")
    check_small(tasks.load_fashion_mnist())


def test_a_package_that_lacks_a_file_is_not_used(folder, download):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((5, 28, 28))))
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    check_small(tasks.load_fashion_mnist())


def test_a_failed_download_says_what_to_install(tmp_path, monkeypatch, no_download):
    monkeypatch.setattr(data, "FASHION_MNIST_FOLDER", tmp_path / "absent")
    with pytest.raises(OSError, match=r"(?s)absent.*URL fetch.*dataset-fashion-mnist"):
        tasks.load_fashion_mnist()


LABELS = idx(np.arange(3))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"no gzip", "gzip"),
        (LABELS[:-10], "ended before"),
        (LABELS[:10] + b"\x07" + LABELS[11:], "decompressing"),
        (LABELS[:-8] + bytes(4) + LABELS[-4:], "CRC"),
        (gzip.compress(b"\x00\x00\x08"), "idx header"),
        (gzip.compress(b"\x00\x00\x0d\x01" + bytes(7)), "idx header"),
        (gzip.compress(b"\x00\x00\x08\x03" + bytes(4)), "cut short"),
        (gzip.compress(gzip.decompress(LABELS)[:-1]), "2 bytes .* takes 3"),
        (gzip.compress(gzip.decompress(LABELS) + b"\x00"), "4 bytes .* takes 3"),
    ],
    ids=[
        "plain",
        "truncated",
        "stream",
        "checksum",
        "short",
        "type",
        "header",
        "less",
        "more",
    ],
)
def test_a_damaged_file_is_named_with_its_damage(folder, content, what):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"t10k-labels.* damaged: .*{what}.* Reinstall"):
        tasks.load_fashion_mnist()


def test_data_sets_load_by_name(folder):
    assert set(tasks.DATASETS) == {"digits", "fashion_mnist"}
    assert tasks.load("digits")[0][0].shape == (1437, 64)
    check_small(tasks.load("fashion_mnist"))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"name='mnist' .*\['digits', 'fashion_mnist'\]"):
        tasks.load("mnist")
