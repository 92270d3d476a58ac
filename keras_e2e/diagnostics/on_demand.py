"""The contract of a quantity that is measured on demand, outside of training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.quantity import Described
from keras_e2e.utils.data import Batches, brings_batches
from keras_e2e.utils.progress import Progress, check_verbose
from keras_e2e.utils.state import preserve_state
from keras_e2e.utils.validation import did_you_mean

_T = TypeVar("_T")


class OnDemand(Described):
    """A number for each module that is measured on demand, outside of training.

    It takes passes of its own, too expensive for a training step. Call `measure`, or give
    the object to `keras_e2e.diagnose(on_demand=[...])`. A subclass sets the class
    attributes below and implements `compute`.

    Attributes:
        name: String, its name.
        formula: String, the formula in plain text.
        interpretation: String, how to read it, in one line.
        unit: String, the unit; empty for a pure number.
        healthy: Tuple `(low, high)`, the range of healthy values: a heuristic. `None`
            where only changes mean something.
        source: String, where it comes from: a paper, in a few words.
        requires_targets: Boolean, whether it takes `y` and a compiled loss.
        schedule: `"on demand"`: no callback measures it.

    Example: the mean absolute weight.

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> class MeanWeight(e2e.diagnostics.OnDemand):
    ...     name, formula = "mean_weight", "mean abs(theta)"
    ...     def compute(self, model, x, y, sample_weight):
    ...         flat = {m.name: [np.ravel(v) for v in m.variables] for m in model.modules}
    ...         return {k: np.abs(np.concatenate(v)).mean() for k, v in flat.items() if v}
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="code"),
    ...                          keras.layers.Dense(1, name="y")])
    >>> model = e2e.modularize(base, ["code"])
    >>> model.set_weights([np.full(w.shape, 0.5) for w in model.get_weights()])
    >>> MeanWeight().measure(model, np.ones((4, 2)))
    {'mean_weight': {'code': 0.5, 'y': 0.5}}
    """

    schedule: str = "on demand"

    _verbose: int | str = 0

    def measure(
        self,
        model: Any,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        verbose: int | Literal["auto"] = "auto",
    ) -> dict[str, dict[str, float]]:
        """Measures each module; afterwards the model is as it was before, to the bit.

        Args:
            model: A modular model.
            x: Arrays (one, or a list or dict of them): a batch, or a small data set.
            y: Targets, as in `model.fit`. Defaults to `None`.
            sample_weight: Weights of the examples, as in `model.fit`. Defaults to `None`.
            verbose: 0 for nothing, 1 for a bar over the modules, 2 for a line now and
                then, or `"auto"`: 1 in a terminal or a notebook, else 2. Defaults to
                `"auto"`.

        Returns:
            A dict of dicts: the numbers by name (`columns`) and module, in order; NaN where
            the quantity does not apply.

        Raises:
            TypeError: If the model is not modular.
            ValueError: If the data are not arrays of one length, or `verbose` is unknown;
                for a quantity that requires targets, if there are none, or the model is
                not compiled.
        """
        check_verbose(self.name, verbose)
        if brings_batches(x):
            raise ValueError(
                f"{self.name}: x is a {type(x).__name__}; expected arrays, because the "
                "examples are used several times and in parts. Give some of them as "
                "arrays, x and y."
            )
        self._check(model, y)
        data = Batches(x, y, sample_weight, who=self.name)
        x, y, sample_weight = tree.map_structure(_array, data.arrays)
        if not model.modules:
            model.examine(tree.map_structure(lambda a: ops.convert_to_tensor(a[:2]), x))
        self._verbose = verbose
        with preserve_state(model):
            found = self.compute(model, x, y, sample_weight)
        self._check_found(found, [module.name for module in model.modules])
        table: dict[str, dict[str, float]] = {column: {} for column in self.columns}
        for module in model.modules:
            value = found.get(module.name)
            if value is None:
                value = (float("nan"),) * len(table)
            numbers = value if isinstance(value, tuple) else (value,)
            for kept, number in zip(table.values(), numbers, strict=True):
                kept[module.name] = float(number)
        return table

    def compute(self, model: Any, x: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
        """Measures all modules. The model may be changed: `measure` restores it.

        Args:
            model: The modular model.
            x: Inputs as NumPy arrays, floats in `keras.config.floatx()`.
            y: Targets likewise, or `None`.
            sample_weight: Weights likewise, or `None`.

        Returns:
            A dict by the module's name of numbers; with several `columns`, of tuples with
            one number for each. A module to which the quantity does not apply may be left
            out.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement compute(model, x, y, sample_weight)."
        )

    def each(self, items: Iterable[_T], unit: str = "module") -> Iterator[_T]:
        """Goes through items, for `compute`, and says how far it is (`verbose`).

        Args:
            items: The items: modules, or what is measured one after another.
            unit: String, what one is called. Defaults to `"module"`.

        Yields:
            The items, in order.
        """
        progress, items = Progress(self.name, self._verbose, unit), list(items)
        progress.begin(len(items))
        for done, item in enumerate(items, start=1):
            yield item
            progress.update(done)

    def _check_found(self, found: Any, names: list[str]) -> None:
        """Raises an error unless `compute` returned numbers by the names of modules."""
        who = f"{type(self).__name__}.compute"
        if not isinstance(found, Mapping):
            raise TypeError(
                f"{who} returned a {type(found).__name__}; expected a dict with a number "
                f"for each module: {names}."
            )
        unknown = sorted(set(found) - {*names})
        if unknown:
            raise ValueError(
                f"{who} returned numbers for {unknown}, which are not "
                f"modules.{did_you_mean(unknown[0], names)} Expected {names}."
            )
        for name, value in found.items():
            numbers = value if isinstance(value, tuple) else (value,)
            if value is not None and (
                len(numbers) != len(self.columns) or any(map(np.ndim, numbers))
            ):
                raise ValueError(
                    f"{who} returned {value!r} for {name!r}; expected a number for each of "
                    f"{self.columns}."
                )

    def _check(self, model: Any, y: Any) -> None:
        """Raises what `measure` says it raises for a model or missing targets."""
        if not hasattr(model, "forward_record"):
            raise TypeError(
                f"{self.name} needs a modular model; found a {type(model).__name__}. Use "
                "keras_e2e.modularize(model, ...)."
            )
        if not self.requires_targets:
            return
        if not model.compiled:
            raise ValueError(
                f"{self.name}: {model.name!r} is not compiled, so it has no loss. Call "
                "model.compile(...) first."
            )
        if y is None:
            raise ValueError(
                f"{self.name}: y is None; expected the targets of the task loss. Give y."
            )


def check_weights(weights: Sequence[Any], model: Any, who: str) -> None:
    """Raises ValueError unless weights have the number and shapes of the model's own."""
    expected = [tuple(v.shape) for v in model.weights]
    given = [np.shape(value) for value in weights]
    if given == expected:
        return
    if len(given) != len(expected):
        problem = f"{len(given)} weights; {model.name!r} has {len(expected)}"
    else:
        place = next(i for i, shape in enumerate(expected) if given[i] != shape)
        problem = (
            f"a weight of shape {given[place]} for {model.weights[place].path!r}, whose "
            f"shape is {expected[place]}"
        )
    raise ValueError(
        f"{who}: found {problem}. Give what model.get_weights() of this model gave."
    )


def _array(value: Any) -> Any:
    if value is None:
        return None
    array = np.asarray(ops.convert_to_numpy(value))
    # Keras, too, feeds floats in the precision of the backend.
    floating = np.issubdtype(array.dtype, np.floating)
    return array.astype(keras.config.floatx()) if floating else array
