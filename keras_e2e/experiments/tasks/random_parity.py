"""The parity of some of d bits, which no gradient reveals.

The experiment of Shalev-Shwartz, Shamir & Shammah 2017 ("Failures of Gradient-Based Deep
Learning", section 2.1).
"""

import keras
import numpy as np

from keras_e2e.experiments.tasks.metrics import sign_accuracy
from keras_e2e.experiments.tasks.seeded import seeded_initializers
from keras_e2e.experiments.tasks.task import Split, Task
from keras_e2e.utils.validation import check_integer

HELD_OUT = 4000


def random_parity(d: int, n: int = 100000, seed: int = 0) -> Task:
    """The product of a random subset of d signs.

    A task that breaks down without any modules: over all subsets, the gradients differ by
    an amount that vanishes exponentially with d. There are no intermediate labels in the
    problem, so there are **no cut points** (`cuts` is empty), and nothing but end-to-end
    training to compare; `modularize` takes boundaries of your own.

    Of Shalev-Shwartz, Shamir & Shammah 2017, section 2.1: the network, the hinge loss, and
    d of 5, 10 and 30; of their code: signs as inputs, batches of 128 and plain gradient
    descent with a rate of 0.01. They draw new inputs all the time; here there are `n`.

    Args:
        d: Integer, the signs in an input, at least 1.
        n: Integer, training inputs. There are 4,000 each for validation and test, drawn on
            their own; with a small d (there are only 2**d inputs) they are not others.
            Defaults to 100,000.
        seed: Integer seed of the subset and the inputs, at least 0. Each sign belongs to
            the subset with probability one half; it has at least one. Defaults to 0.

    Returns:
        A `Task` whose inputs and targets are -1 or +1 and whose metric is `sign_accuracy`.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.random_parity(d=5, n=100)
    >>> task.train.x.shape, task.train.y["parity"].shape, task.cuts
    ((100, 5), (100, 1), {})
    """
    check_integer("d", d, 1)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    subset = rng.random(d) < 0.5
    subset[rng.integers(d)] |= not subset.any()
    train, validation, test = (
        _inputs(subset, size, np.random.default_rng([seed, number]))
        for number, size in enumerate((n, HELD_OUT, HELD_OUT))
    )
    return Task(
        f"parity of some of {d} signs",
        lambda model_seed: random_parity_model(d, model_seed),
        train,
        validation,
        test,
        {},
        "hinge",
        [sign_accuracy],
        0.5,
    )


def random_parity_model(d: int, seed: int = 0) -> keras.Model:
    """Builds the network of `random_parity`: 10 d hidden units (ReLU), one score.

    Wide enough for any parity of d signs. The layers, by name: `signs` (input) → `hidden`
    → `parity`.

    Args:
        d: Integer, the signs in an input, at least 1.
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights,
            drawn as in the authors' code: normal, truncated, with a standard deviation of
            one over the root of the inputs. Defaults to 0.

    Returns:
        A `keras.Model` from (batch, d) to a score, (batch, 1). Not compiled.

    Raises:
        ValueError: If `d` or `seed` is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> tasks.random_parity_model(d=5).get_layer("hidden").units
    50
    """
    check_integer("d", d, 1)
    check_integer("seed", seed, 0)
    draw = seeded_initializers(seed, 2)
    signs = x = keras.Input((int(d),), name="signs")
    for name, units, activation in (("hidden", 10 * d, "relu"), ("parity", 1, None)):
        start = draw(keras.initializers.TruncatedNormal, stddev=x.shape[-1] ** -0.5)
        x = keras.layers.Dense(int(units), activation, kernel_initializer=start, name=name)(
            x
        )
    return keras.Model(signs, x, name="random_parity_model")


def _inputs(subset: np.ndarray, n: int, rng: np.random.Generator) -> Split:
    x = rng.choice(np.array([-1.0, 1.0], "float32"), (n, len(subset)))
    return Split(x, {"parity": x[:, subset].prod(axis=1, keepdims=True)}, {})
