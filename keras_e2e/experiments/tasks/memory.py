"""A key-value memory of images: find the pair whose key is asked for, read its value.

A system of three networks: an encoder of the key images, an addressing module that
compares the query with the keys, and a classifier of what is read.
"""

import keras
import numpy as np

from keras_e2e.experiments.tasks.datasets import split_images
from keras_e2e.experiments.tasks.digit_tasks import ENCODERS, HELD_OUT
from keras_e2e.experiments.tasks.seeded import seeded_dense
from keras_e2e.experiments.tasks.task import Split, Task, class_cut
from keras_e2e.utils.validation import check_integer

CLASSES = 10
PROJECTED = 32


def memory(m: int = 4, data: str = "digits", n: int = 20000, seed: int = 0) -> Task:
    """The class of the value image that was stored under the key that is asked for.

    m pairs of images are written to a memory, a key and a value each; the keys are of m
    different classes. The query is another image of one key's class. Attention over the
    keys reads a mixture of the value images (as key-value memory networks do: Miller et al.
    2016; scaled dot products as in Vaswani et al. 2017), and a classifier says which class
    it shows.

    The modules, by the layer that ends it:

    - `symbols`: an encoder shared by keys and query, a softmax over the classes; labels:
      the classes of the m keys, then that of the query.
    - `attention`: projects symbols of keys and query and compares them, a softmax over
      the slots; labels: the slot with the query's class.
    - `answer`, the output: a classifier of the mixture. The value images are raw input
      that enters here, so they do not go around a cut point.

    Args:
        m: Integer, the pairs in the memory, from 2 to 10. Defaults to 4.
        data: String, the images: "digits" or "fashion_mnist". Defaults to "digits".
        n: Integer, training examples. There are 4,000 each for validation and test, of
            images that occur in no other split. Defaults to 20,000.
        seed: Integer seed of the splits and draws, at least 0. Defaults to 0.

    Returns:
        A `Task` whose inputs are float32 of shape (n, 2m + 1, pixels) in [0, 1]: the keys,
        the query, the values in the order of their keys. Whoever reads any one slot is
        right in 1/m of the cases and in a tenth of the others: 0.325 for m = 4, above
        `chance`. There is no formula for the ceiling.

    Raises:
        ValueError: If a number is out of range or the data is unknown.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.memory(m=4, n=100)
    >>> task.train.x.shape, {name: y.shape for name, y in task.train.targets().items()}
    ((100, 9, 64), {'answer': (100,), 'symbols': (100, 5), 'attention': (100,)})
    """
    check_integer("m", m, 2)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    if m > CLASSES:
        raise ValueError(
            f"m={m}: the keys are of different classes, of which there are {CLASSES}. Take "
            f"{CLASSES} or less."
        )
    if data not in ENCODERS:
        raise ValueError(f"data={data!r}: expected one of {sorted(ENCODERS)}.")
    images = split_images(data, seed)
    train, validation, test = (
        _examples(x, classes, m, size, 3 * seed + number)
        for number, ((x, classes), size) in enumerate(
            zip(images, (n, HELD_OUT, HELD_OUT), strict=True)
        )
    )
    width = images[0][0].shape[1]

    def build(model_seed: int) -> keras.Model:
        return memory_model(m, width, ENCODERS[data], model_seed)

    return Task(
        f"memory of {m} pairs of {data}",
        build,
        train,
        validation,
        test,
        {
            "symbols": class_cut(CLASSES),
            "attention": class_cut(m),
        },
        "sparse_categorical_crossentropy",
        ["accuracy"],
        1.0 / CLASSES,
    )


def memory_model(
    m: int, d: int, encoder: tuple[int, ...] = (128, 64), seed: int = 0
) -> keras.Model:
    """Builds the stock Keras model of `memory`, without boundaries.

    The layers, by name: `images` (input) → of keys and query `encoder_1`, ... → `symbols`
    → `key` and `query` (Dense, no bias) → `attention` → times the values, `read` →
    `classifier` → `answer`.

    Args:
        m: Integer, the pairs in the memory, at least 1.
        d: Integer, the values in an image: 64 for the digits, 784 for Fashion-MNIST.
        encoder: Tuple of the units of the encoder's hidden layers. Defaults to (128, 64),
            as in `parity_model`.
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights.
            Defaults to 0.

    Returns:
        A `keras.Model` from (batch, 2m + 1, d) to the classes, (batch, 10). Not compiled.

    Raises:
        ValueError: If a size is not a positive integer, or `seed` is negative.

    Example:

    >>> from keras_e2e import tasks
    >>> model = tasks.memory_model(m=4, d=64)
    >>> model.get_layer("attention").output.shape, model.output_shape
    ((None, 4), (None, 10))
    """
    check_integer("m", m, 1)
    check_integer("d", d, 1)
    check_integer("seed", seed, 0)
    layers = keras.layers
    dense = seeded_dense(seed, len(encoder) + 5)

    images = keras.Input((2 * m + 1, d), name="images")
    x = images[:, : m + 1]
    for i, units in enumerate(encoder, 1):
        x = dense(f"encoder_{i}", units, "relu")(x)
    symbols = dense("symbols", CLASSES, "softmax")(x)

    keys = dense("key", PROJECTED, use_bias=False)(symbols[:, :m])
    query = dense("query", PROJECTED, use_bias=False)(symbols[:, m])
    scores = layers.Dot(axes=(2, 1), name="scores")([keys, query])
    # Divided by the root of the size, as in scaled dot-product attention.
    attention = layers.Softmax(name="attention")(scores / PROJECTED**0.5)

    read = layers.Dot(axes=(1, 1), name="read")([attention, images[:, m + 1 :]])
    x = dense("classifier", 128, "relu")(read)
    return keras.Model(images, dense("answer", CLASSES, "softmax")(x), name="memory_model")


def _examples(images: np.ndarray, classes: np.ndarray, m: int, n: int, seed: int) -> Split:
    """Draws pairs and queries, with replacement."""
    rng = np.random.default_rng(seed)
    # Each row an order of all classes; the first m are those of the keys.
    asked = rng.permuted(np.tile(np.arange(CLASSES), (n, 1)), axis=1)[:, :m]
    slots = rng.integers(m, size=n)
    keys, queries = np.empty((n, m), int), np.empty(n, int)
    for label in range(CLASSES):
        own = np.flatnonzero(classes == label)
        places = asked == label
        keys[places] = rng.choice(own, places.sum())
        # The query: any of the class but the very image that is the key.
        rows = np.flatnonzero(places[np.arange(n), slots])
        step = rng.integers(1, len(own), rows.size)
        before = np.searchsorted(own, keys[rows, slots[rows]])
        queries[rows] = own[(before + step) % len(own)]
    values = rng.integers(len(images), size=(n, m))
    x = images[np.concatenate([keys, queries[:, None], values], axis=1)]
    answer = classes[values[np.arange(n), slots]]
    symbols = np.concatenate([asked, classes[queries][:, None]], axis=1)
    labels = {"symbols": symbols.astype("int32"), "attention": slots.astype("int32")}
    return Split(x, {"answer": answer}, labels)
