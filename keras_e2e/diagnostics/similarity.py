"""How similar a module's output is to that in another model, or at another time."""

from typing import Any

import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.entries import unpadded
from keras_e2e.diagnostics.on_demand import OnDemand, check_weights
from keras_e2e.utils import compat
from keras_e2e.utils.state import preserve_state
from keras_e2e.utils.validation import check_integer

# The unbiased estimator divides by the number of examples less three.
MIN_EXAMPLES = 4


class CKA(OnDemand):
    """Similarity of a module's output to the same module's in another epoch or run.

    Linear centered kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) over
    minibatches with the unbiased estimator of HSIC (Nguyen et al. 2021, arXiv
    2010.15327), in inference mode. It is 1 for outputs that agree up to a rotation and a
    factor, about 0 (it may be a little below) for unrelated ones. Between two epochs it
    shows which modules still change; between two runs, which learn the same. Positions
    and channels both count as features; padding counts as 0. NaN where an output is the
    same for all examples.

    Args:
        reference: What to compare with: a modular model whose modules have the same names,
            or the weights of this model at another time, as returned by
            `model.get_weights()`.
        batch_size: Integer, 4 or larger, or `None`: about how many examples are compared
            with each other; the sizes of the batches differ by one at most. Defaults to
            `None`, meaning 32.

    Raises:
        TypeError: If `reference` is neither a modular model nor a list of weights.
        ValueError: If `batch_size` is invalid. From `measure`: if there are fewer than 4
            examples, or the modules or weights of the reference do not match.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="code"),
    ...                          keras.layers.Dense(1, name="y")])
    >>> model = e2e.modularize(base, ["code"])
    >>> x = np.random.default_rng(0).normal(size=(8, 2))
    >>> found = e2e.diagnostics.CKA(model.get_weights()).measure(model, x)
    >>> {module: round(value, 3) for module, value in found["cka"].items()}
    {'code': 1.0, 'y': 1.0}
    """

    name = "cka"
    formula = "HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = H H^T here, L of the reference"
    interpretation = "1: the same up to a rotation; about 0: unrelated"
    source = "Kornblith et al. 2019 (arXiv 1905.00414), Nguyen et al. 2021 (2010.15327)"

    def __init__(self, reference: Any, *, batch_size: int | None = None):
        if not hasattr(reference, "forward_record") and not isinstance(
            reference, list | tuple
        ):
            raise TypeError(
                f"CKA: reference is a {type(reference).__name__}; expected a modular "
                "model, or a list of weights as model.get_weights() returns it."
            )
        batch_size = 32 if batch_size is None else batch_size
        check_integer("CKA: batch_size", batch_size, MIN_EXAMPLES)
        self.reference, self.batch_size = reference, int(batch_size)

    def compute(self, model, x, y, sample_weight):
        count = len(next(a for a in tree.flatten(x) if a is not None))
        if count < MIN_EXAMPLES:
            raise ValueError(
                f"{self.name}: found {count} examples; expected at least {MIN_EXAMPLES}, "
                "for the unbiased estimator. Give more examples."
            )
        parts = np.array_split(np.arange(count), max(1, count // self.batch_size))
        if isinstance(self.reference, list | tuple):
            check_weights(self.reference, model, self.name)
            other = model
        else:
            other = self.reference
            _check_reference(other, model)
        here = [_kernels(model, x, part) for part in self.each(parts, "batch")]
        with preserve_state(other):
            if other is model:
                model.set_weights(list(self.reference))
            there = [_kernels(other, x, part) for part in parts]
        return {m.name: _alignment(m.name, here, there) for m in model.modules}


def unbiased_hsic(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased estimate of HSIC from two kernel matrices (Song et al. 2012).

    Args:
        first: Array `(n, n)`, the inner products of all pairs of examples, in double
            precision.
        second: Array of the same shape, for the other features.
    """
    n = len(first)
    k, m = (kernel - np.diag(np.diag(kernel)) for kernel in (first, second))
    total = np.sum(k * m) + k.sum() * m.sum() / ((n - 1) * (n - 2))
    total -= 2.0 / (n - 2) * np.dot(k.sum(axis=0), m.sum(axis=0))
    return float(total / (n * (n - 3)))


def _alignment(module: str, here: list[dict], there: list[dict]) -> float | None:
    """Nguyen's quotient of means over the batches; None where an output is constant."""
    pairs = [(a[module], b[module]) for a, b in zip(here, there, strict=True)]
    both = np.mean([unbiased_hsic(a, b) for a, b in pairs])
    left = np.mean([unbiased_hsic(a, a) for a, _ in pairs])
    right = np.mean([unbiased_hsic(b, b) for _, b in pairs])
    return float(both / np.sqrt(left * right)) if min(left, right) > 0 else None


def _kernels(model: Any, x: Any, part: np.ndarray) -> dict[str, np.ndarray]:
    """For each module the inner products of its outputs for all pairs of examples."""
    inputs = tree.map_structure(
        lambda a: None if a is None else ops.convert_to_tensor(a[part]), x
    )
    record = model.forward_record(inputs)
    found: dict[str, np.ndarray] = {}
    for module in model.modules:
        ends = record.activations(module.name)
        if module.boundary is None:
            ends = tree.flatten(record.outputs)
        found[module.name] = np.sum([_products(end) for end in ends], axis=0)
    return found


def _products(activation: Any) -> np.ndarray:
    features = unpadded(ops.cast(activation, "float32"), compat.mask_of(activation))
    features = ops.reshape(features, (ops.shape(features)[0], -1))
    # The estimate does not depend on the mean, and is more precise without it.
    features = features - ops.mean(features, axis=0, keepdims=True)
    products = ops.matmul(features, ops.transpose(features))
    return np.asarray(ops.convert_to_numpy(products), "float64")


def _check_reference(reference: Any, model: Any) -> None:
    theirs, ours = ([m.name for m in each.modules] for each in (reference, model))
    if theirs != ours:
        raise ValueError(
            f"cka: the modules of the reference are {theirs}, those of {model.name!r} are "
            f"{ours}; expected the same names. Give the boundaries the same names."
        )
