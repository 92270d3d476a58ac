"""Which of k stocks to buy: a gradient with signal, and with k times the noise.

The experiment of Shalev-Shwartz, Shamir & Shammah 2017 ("Failures of Gradient-Based Deep
Learning", section 3.2).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.experiments.tasks.task import Cut, Split, Task, one_hot
from keras_e2e.utils.validation import check_integer


def stocks(k: int = 10, d: int = 1000, n: int = 50000, seed: int = 0) -> Task:
    """Which of k stocks always rises, for each of d situations.

    In situation x the stock y(x), drawn at random, rises by 1; every other one rises or
    falls by 1 with equal chances. The model spreads its money over the stocks and is to
    earn as much as it can. End to end it sees the returns z of all stocks; the modular
    label at the cut point `portfolio` is the hidden y, and its loss is the same return,
    with the one-hot vector of y for z. The expectation of both gradients is the same, the
    variance of the first is about k times larger.

    Of Shalev-Shwartz, Shamir & Shammah 2017, section 3.2: the problem, the linear softmax,
    k of 10, 1,000 and 2,000, and 2,500 steps of 100 examples; of their code: Adam with a
    rate of .1, betas of .9 and .99, and an epsilon of 1e-5. They draw new returns all the
    time; here each situation has about n / d of them, which should be well above log2(k),
    or else stocks that rose by chance look like y.

    Downstream of the cut point there is nothing to learn: in the training mode `local` all
    is learned from y alone, which is the "decomposition" of the paper.

    Args:
        k: Integer, the stocks, at least 2. Defaults to 10.
        d: Integer, the situations, at least 1. Defaults to 1,000.
        n: Integer, training examples, of k bytes each. Validation and test are every
            situation once (the same ones: nothing predicts y in a situation never seen),
            with the expected returns: 1 for y and 0 for all others. Defaults to 50,000.
        seed: Integer seed of y and of the returns, at least 0. Defaults to 0.

    Returns:
        A `Task` whose inputs are the numbers of situations, int32, which the model turns
        into one-hot vectors. Its metric is `chosen_return`: on validation and test, that is
        the accuracy of the stock that got most.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.stocks(k=10, d=50, n=100)
    >>> task.train.x.shape, {name: y.shape for name, y in task.train.targets().items()}
    ((100,), {'returns': (100, 10), 'portfolio': (100,)})
    """
    check_integer("k", k, 2)
    check_integer("d", d, 1)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    hidden = rng.integers(k, size=d, dtype="int32")
    x = rng.integers(d, size=n, dtype="int32")
    # Bytes: with k = 2,000 these are many.
    returns = 2 * rng.integers(2, size=(n, k), dtype="int8") - 1
    returns[np.arange(n), hidden[x]] = 1
    train = Split(x, {"returns": returns}, {"portfolio": hidden[x]})
    everything = Split(
        np.arange(d, dtype="int32"),
        {"returns": np.eye(k, dtype="int8")[hidden]},
        {"portfolio": hidden},
    )
    return Task(
        f"{k} stocks in {d} situations",
        lambda model_seed: stocks_model(k, d, model_seed),
        train,
        everything,
        everything,
        {
            "portfolio": Cut(sparse_negative_return, one_hot(k), k),
        },
        negative_return,
        [chosen_return],
        1.0 / k,
        lambda error: 1.0 - error,
    )


def stocks_model(k: int, d: int, seed: int = 0) -> keras.Model:
    """Builds the stock Keras model of `stocks`: a linear softmax.

    The layers, by name: `situation` (input) → one-hot → `portfolio` (Dense, softmax) →
    `returns` (the identity, so that there is something downstream of the cut point).

    Args:
        k: Integer, the stocks, at least 2.
        d: Integer, the situations, at least 1.
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights,
            drawn as in the authors' code: normal, truncated, with a standard deviation of
            one over the root of d. Defaults to 0.

    Returns:
        A `keras.Model` from (batch,), int32, to shares that sum to 1, (batch, k). Not
        compiled.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> tasks.stocks_model(k=10, d=1000).count_params()
    10010
    """
    check_integer("k", k, 2)
    check_integer("d", d, 1)
    check_integer("seed", seed, 0)
    situation = keras.Input((), dtype="int32", name="situation")
    start = keras.initializers.TruncatedNormal(stddev=d**-0.5, seed=int(seed))
    portfolio = keras.layers.Dense(
        int(k), "softmax", kernel_initializer=start, name="portfolio"
    )(ops.one_hot(situation, int(d)))
    returns = keras.layers.Identity(name="returns")(portfolio)
    return keras.Model(situation, returns, name="stocks_model")


@keras.saving.register_keras_serializable("keras_e2e")
def negative_return(y_true: Any, y_pred: Any) -> Any:
    """Minus what a portfolio earns, a loss for `compile`.

    Args:
        y_true: Tensor, the returns of the stocks, shape (batch, k).
        y_pred: Tensor, the shares of the money, of the same shape.

    Returns:
        A value for each example, shape (batch,).

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> np.asarray(tasks.negative_return(np.array([[1.0, -1.0]]), np.array([[0.75, 0.25]])))
    array([-0.5])
    """
    return -ops.sum(ops.cast(y_true, y_pred.dtype) * y_pred, axis=-1)


@keras.saving.register_keras_serializable("keras_e2e")
def sparse_negative_return(y_true: Any, y_pred: Any) -> Any:
    """The same where y_true is the only stock that rises, an integer, shape (batch,)."""
    return negative_return(ops.one_hot(y_true, y_pred.shape[-1]), y_pred)


@keras.saving.register_keras_serializable("keras_e2e")
def chosen_return(y_true: Any, y_pred: Any) -> Any:
    """The return of the stock with the largest share, a metric for `compile`.

    Where y_true holds the expected returns, this is 1 if that stock is the hidden one and
    else 0. With returns that were not learned from, its expectation is the same.

    Args:
        y_true: Tensor, the returns of the stocks, shape (batch, k).
        y_pred: Tensor, the shares of the money, of the same shape.

    Returns:
        A value for each example, shape (batch,).

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> np.asarray(tasks.chosen_return(np.array([[1.0, -1.0]]), np.array([[0.3, 0.7]])))
    array([-1.])
    """
    y_true = ops.cast(y_true, y_pred.dtype)
    chosen = ops.argmax(y_pred, axis=-1)
    return ops.sum(
        y_true * ops.one_hot(chosen, y_true.shape[-1], dtype=y_true.dtype), axis=-1
    )
