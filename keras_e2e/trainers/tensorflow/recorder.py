"""Where instrumented steps write their numbers, on TensorFlow."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_e2e.diagnostics.quantity import ModuleView, Quantity

# The levels of a step: 0 is without diagnostics.
READING, PERIODIC = 1, 2


class Recorder:
    """Where instrumented steps write; read by callbacks.

    One variable with the numbers, `[modules, numbers]`, and what the quantities keep
    between steps. Keras does not track them: they are in no weights, logs or files. Each
    replica holds its own copy with the same values, so writing needs no synchronisation.

    Attributes:
        module_names: the rows.
        quantities: what is computed.
        columns: the names of the numbers: those of the quantities, and what comes along.
    """

    def __init__(self, modules: list, quantities: list[Quantity]):
        self.module_names = [module.name for module in modules]
        self.shapes = _shapes(modules)
        self.quantities = quantities
        self.columns = [name for quantity in quantities for name in quantity.columns]
        # The numbers, and 1 where there is one, else 0.
        self.values = _local_variable((2, len(modules), len(self.columns)))
        self.kept = [
            [
                [_local_variable(s) for s in quantity.init_state(shapes)]
                for quantity in quantities
            ]
            for shapes in self.shapes
        ]

    def fits(self, modules: list, quantities: list[Quantity]) -> bool:
        """Whether it can serve these: the same variables of the modules are trainable."""
        return self.quantities == quantities and self.shapes == _shapes(modules)

    def needs(self, level: int) -> set[str]:
        """What the quantities that are due take besides the step: passes, and targets."""
        due = [q for q in self.quantities if level >= PERIODIC or q.schedule is None]
        passes = {name for quantity in due for name in quantity.extra_passes}
        return passes | {"classes" for quantity in due if quantity.requires_targets}

    def read(self) -> dict[str, dict[str, float]]:
        """The numbers of the latest instrumented step, by name and module.

        One transfer. Holds no entry where a quantity does not apply to a module, or was
        not due; NaN and infinity are as they came out.
        """
        values, applies = self.values.numpy().tolist()
        return {
            name: {
                module: values[row][column]
                for row, module in enumerate(self.module_names)
                if applies[row][column]
            }
            for column, name in enumerate(self.columns)
        }

    def reset(self, everything: bool = True) -> None:
        """Forgets what was kept.

        Args:
            everything: also what outlasts a switch of modes; running averages, which
                belong to the loss of one mode, are forgotten in any case.
        """
        for row in self.kept:
            for quantity, kept in zip(self.quantities, row, strict=True):
                if everything or not quantity.keep_across_modes:
                    for variable in kept:
                        variable.assign(tf.zeros_like(variable))

    def write(self, views: list[ModuleView], level: int) -> None:
        """Computes what is due of every module; called in a traced step.

        Args:
            views: what the step shows of each module.
            level: `READING`, or `PERIODIC` for what is dear, too.
        """
        rows, applies = [], []
        for row, view in enumerate(views):
            numbers: list = []
            for column, quantity in enumerate(self.quantities):
                if quantity.schedule is not None and level < PERIODIC:
                    numbers += [None] * len(quantity.columns)
                    continue
                kept = self.kept[row][column]
                found, following = quantity.compute(view, [tf.identity(v) for v in kept])
                for variable, new in zip(kept, following, strict=True):
                    variable.assign(new)
                numbers += _as_many(quantity, found)
            rows.append(
                tf.stack([tf.cast(np.nan if n is None else n, tf.float32) for n in numbers])
            )
            applies.append([0.0 if n is None else 1.0 for n in numbers])
        self.values.assign(tf.stack([tf.stack(rows), tf.constant(applies, tf.float32)]))


def _as_many(quantity: Quantity, found: Any) -> list:
    """A number for each of a quantity's columns."""
    if found is None:
        return [None] * len(quantity.columns)
    numbers = list(found) if isinstance(found, tuple) else [found]
    if len(numbers) != len(quantity.columns):
        raise ValueError(
            f"{type(quantity).__name__}.compute gave {len(numbers)} numbers for "
            f"{quantity.columns}. Return one for the name and one for each of `extra_outputs`."
        )
    return numbers


def _shapes(modules: list) -> list[list[tuple]]:
    return [[tuple(v.shape) for v in m.trainable_variables] for m in modules]


def _local_variable(shape: tuple) -> tf.Variable:
    """A variable of which each replica writes its own copy."""
    return tf.Variable(
        tf.zeros(shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
