"""The singular values of a module's Jacobian."""

from typing import Any

import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.jacobian_products import JacobianProducts, jacobian_products
from keras_e2e.diagnostics.on_demand import OnDemand
from keras_e2e.utils.validation import check_integer


class JacobianSingularValues(OnDemand):
    """The singular values of a module's Jacobian: by how much it stretches a change.

    The Jacobian is that of the module's output with respect to its input, for each
    example, in inference mode; the numbers are means over the examples. Where all its
    singular values are about 1 (dynamical isometry), signals pass forward and errors pass
    back in every direction, and a deep network learns fast (Pennington et al. 2017,
    arXiv 1711.04735).

    `jacobian_mean_square` is the mean squared singular value, `norm(J)^2 / min(inputs,
    outputs)`, by Hutchinson's estimator with vector-Jacobian products: unbiased, and
    exact where there are as many directions as the module has outputs.
    `jacobian_largest` is the largest singular value, by power iteration with products
    from both sides, which approaches it from below.

    NaN where a module has other than exactly one input and one output, both floats: a
    model with several inputs, token ids. The padding of sequences counts as input. The
    operations of the module need second derivatives.

    Args:
        num_directions: Integer: how many random directions the mean square is estimated
            from; they are orthogonal to each other. Defaults to 8.
        num_iterations: Integer: iterations of the power iteration. Each takes a product
            from both sides. Defaults to 20.
        num_examples: Integer: how many examples to look at, from the first on. Defaults
            to 32.
        seed: Integer seed for the directions. Defaults to 0.

    Raises:
        ValueError: If an argument is invalid.

    Example: a layer that doubles what it is given.

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0, name="x2"),
    ...                          keras.layers.Dense(1, name="y")])
    >>> model = e2e.modularize(base, ["x2"])
    >>> quantity = e2e.diagnostics.JacobianSingularValues()
    >>> found = quantity.measure(model, np.ones((4, 2)), verbose=0)
    >>> {name: round(values["x2"], 4) for name, values in found.items()}
    {'jacobian_mean_square': 4.0, 'jacobian_largest': 2.0}
    """

    name = "jacobian_singular_values"
    formula = "mean_i s_i^2 and max_i s_i of J = d output / d input, mean over examples"
    interpretation = "about 1: what passes neither dies nor explodes"
    healthy = (0.1, 10.0)
    source = "Pennington et al. 2017 (arXiv 1711.04735)"

    def __init__(
        self,
        num_directions: int = 8,
        num_iterations: int = 20,
        *,
        num_examples: int = 32,
        seed: int = 0,
    ):
        who = type(self).__name__
        check_integer(f"{who}: num_directions", num_directions, 1)
        check_integer(f"{who}: num_iterations", num_iterations, 1)
        check_integer(f"{who}: num_examples", num_examples, 1)
        check_integer(f"{who}: seed", seed, 0)
        self.num_directions, self.num_iterations = int(num_directions), int(num_iterations)
        self.num_examples, self.seed = int(num_examples), int(seed)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("jacobian_mean_square", "jacobian_largest")

    def compute(self, model, x, y, sample_weight):
        x = tree.map_structure(lambda a: None if a is None else a[: self.num_examples], x)
        found = {}
        products = self.each(jacobian_products(model, x).items())
        for place, (name, jacobian) in enumerate(products):
            if jacobian is None:
                continue
            random = np.random.default_rng([self.seed, place])
            found[name] = (
                _mean_square(jacobian, self.num_directions, random),
                _largest(jacobian, self.num_iterations, random),
            )
        return found


def _mean_square(
    jacobian: JacobianProducts, most: int, random: np.random.Generator
) -> float:
    count = min(most, jacobian.outputs)
    directions, _ = np.linalg.qr(random.normal(size=(jacobian.outputs, count)))
    total = 0.0
    for direction in directions.T:
        vectors = np.tile(direction.astype("float32"), (jacobian.batch, 1))
        total += float(ops.sum(ops.square(jacobian.left(vectors))))
    # A random direction of length 1 sees one part in as many as there are outputs.
    norm = total * jacobian.outputs / count / jacobian.batch
    return norm / min(jacobian.inputs, jacobian.outputs)


def _largest(
    jacobian: JacobianProducts, iterations: int, random: np.random.Generator
) -> float:
    vectors = random.normal(size=(jacobian.batch, jacobian.inputs)).astype("float32")
    for _ in range(iterations):
        vectors = jacobian.left(jacobian.right(_of_length_1(vectors)))
    lengths = ops.norm(jacobian.right(_of_length_1(vectors)), axis=1)
    return float(ops.mean(lengths))


def _of_length_1(vectors: Any) -> Any:
    lengths = ops.norm(vectors, axis=1, keepdims=True)
    return vectors / ops.maximum(lengths, 1e-37)
