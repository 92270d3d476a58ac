"""The data of a diagnosis: whatever `fit` takes, for a given number of steps."""

import itertools
import types
from collections.abc import Mapping
from typing import Any

import keras
from keras import tree

from keras_e2e.models.examples import first_examples
from keras_e2e.utils import compat
from keras_e2e.utils.data import brings_batches

# As in Keras, where none is given.
BATCH_SIZE = 32


class TrainingData:
    """What `fit` is given, so that the data lasts for the steps if it can be repeated.

    Args:
        x: As in `diagnose`. The first batch of a generator is drawn here.
        y: As in `diagnose`.
        steps: Integer, the number of batches.
        arguments: Dict of further arguments of `fit`.

    Attributes:
        arguments: Dict of all that `fit` is given to have the data.

    Raises:
        ValueError: If `x` is None, or a generator that is empty.
    """

    def __init__(self, x: Any, y: Any, steps: int, arguments: Mapping[str, Any]):
        if x is None:
            raise ValueError("diagnose: x is None; expected arrays or a dataset. Give x.")
        self.arguments = {**arguments, "x": x, "y": y, "epochs": steps}
        self._given = x
        if isinstance(x, types.GeneratorType):
            batches = [*itertools.islice(x, 1)]
            if not batches:
                raise ValueError(
                    "diagnose: x is a generator that is empty: there is nothing to train "
                    "on. Give one that was not used up."
                )
            self._given = keras.utils.unpack_x_y_sample_weight(batches[0])[0]
            # No more is drawn than is trained on.
            drawn = itertools.islice(itertools.chain(batches, x), steps)
            self.arguments.update(x=(batch for batch in drawn), epochs=1)
            self.arguments.pop("steps_per_epoch", None)
        elif isinstance(x, keras.utils.PyDataset) and x.num_batches is None:
            self.arguments.update(steps_per_epoch=steps, epochs=1)

    def examples(self, model: keras.Model) -> Any:
        """Inputs of a few examples as tensors: of a whole batch, if its size matters.

        Raises:
            TypeError: If they cannot be taken from what `x` is.
            ValueError: If there are none.
        """
        layers = [model, *compat.all_layers(model)]
        fixed = any(getattr(layer, "stateful", False) for layer in layers)
        whole = self.arguments.get("batch_size") or BATCH_SIZE
        found = first_examples(self._given, whole if fixed else 2)
        if found is None:
            raise TypeError(
                f"diagnose: x is a {type(self._given).__name__}; expected arrays, a "
                "tf.data.Dataset, a keras.utils.PyDataset or a Python generator of "
                "batches. Give one of these."
            )
        if not all(t.shape and t.shape[0] for t in tree.flatten(found)):
            raise ValueError("diagnose: the data is empty. Give examples to train on.")
        return found

    def refuse_missing_targets(self, model: Any) -> None:
        """Raises ValueError where there are no targets for the compiled loss.

        Some quantities compute it in every training mode.
        """
        if model.loss is None:
            return
        x, y = self.arguments["x"], self.arguments["y"]
        if brings_batches(x):
            spec = getattr(x, "element_spec", None)  # known beforehand of a tf.data.Dataset
            unpack = keras.utils.unpack_x_y_sample_weight
            given = spec is None or unpack(spec)[1] is not None
        else:
            given = y is not None
        if not given:
            raise ValueError(
                f"diagnose: there are no targets, but {model.name!r} is compiled with the "
                f"loss {model.loss!r}. Give y, or a dataset of (x, y)."
            )


class ValidationData:
    """Examples to compute the loss on, before and after.

    Args:
        data: As `validation_data` in `fit`, or None.
        arguments: Dict of arguments of `fit`: `batch_size`, and those of
            `validation_...`, which are taken out of it.

    Raises:
        TypeError: If `data` cannot be gone through twice.
        ValueError: If it never ends.
    """

    def __init__(self, data: Any, arguments: dict[str, Any]):
        steps = arguments.pop("validation_steps", None)
        size = arguments.pop("validation_batch_size", None)
        self.data = data
        self._arguments = {
            "steps": steps,
            "batch_size": size or arguments.get("batch_size"),
        }
        if isinstance(data, types.GeneratorType):
            raise TypeError(
                "diagnose: validation_data is a generator, which is used up when it was "
                "gone through once; the loss is computed before and after. Give arrays or "
                "a dataset."
            )
        endless = hasattr(data, "cardinality") and int(data.cardinality()) == -1
        if steps is None and endless:
            raise ValueError(
                "diagnose: validation_data is a dataset without an end. Give "
                "validation_steps, too, or data.take(n)."
            )

    def loss(self, model: Any) -> float | None:
        """The loss of the model as it is now, as `evaluate` gives it; None without data."""
        if self.data is None:
            return None
        x, y, weight = keras.utils.unpack_x_y_sample_weight(self.data)
        given = {key: n for key, n in self._arguments.items() if n is not None}
        numbers = model.evaluate(
            x, y, sample_weight=weight, verbose=0, return_dict=True, **given
        )
        return float(numbers["loss"])
