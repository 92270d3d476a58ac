"""Where instrumented steps write their numbers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.diagnostics.quantity_checks import measured_by, nothing_of, state_shapes
from keras_e2e.trainers.optimizer_step import Outcome
from keras_e2e.trainers.snapshot import HEAD, Snapshot, as_floats
from keras_e2e.utils.validation import did_you_mean

Shapes = Mapping[str, list[tuple]]


class Recorder:
    """Holds the numbers that instrumented steps write and callbacks read.

    They are one variable (`snapshot.Snapshot` says what is where); others hold what the
    quantities keep between steps. Keras does not track them: they are in no weights, logs
    or files. A backend's own subclass says what a variable is, and how it is read.

    Args:
        shapes: Dict from module, in order, to the shapes of the variables that the steps
            train.
        quantities: List of the `Quantity` objects that the steps can measure.

    Attributes:
        module_names: List of the names of the rows.
        quantities: List of the `Quantity` objects that the steps can measure.
        columns: List of the names of the numbers: those of the quantities, and of their
            extra outputs.
    """

    def __init__(self, shapes: Shapes, quantities: Sequence[Quantity]):
        self.shapes = shapes
        self.module_names = list(shapes)
        self.quantities = list(quantities)
        self.columns = [name for quantity in quantities for name in quantity.columns]
        self.values = self._variable((HEAD + 2 * len(shapes) * len(self.columns),))
        self._snapshot: Snapshot | None = None
        # Whether executions were seen in which no step need be a measurement.
        self._may_measure_nothing = False
        # By quantity, in lists: of each module, or of all at once in one.
        self.kept = [
            [
                [self._variable(s) for s in own]
                for own in state_shapes(q, [*shapes.values()])
            ]
            for q in quantities
        ]
        self._asked: set[str] = set()

    # What a backend's own subclass implements

    def _variable(self, shape: tuple) -> Any:
        """A variable of zeros in float32."""
        raise NotImplementedError

    def _read(self, variable: Any) -> Any:
        """What a variable is now, as a tensor that later assignments do not change."""
        raise NotImplementedError

    def _on_device(self) -> Any:
        """The numbers as they are now, read without waiting for them."""
        raise NotImplementedError

    def _agreed(self, values: Any) -> Any:
        """The numbers that all who train together write."""
        return values

    # What callers ask

    def begin_fit(self) -> None:
        """Forgets which quantities were requested, because a `fit` begins."""
        self._asked.clear()
        self.snapshot()  # what was measured last can be read until something new is
        # The optimizer may be another, and its first step no measurement.
        _clear(self.values)

    def with_added(self, wanted: Sequence[Quantity]) -> list[Quantity]:
        """The quantities there are with those that are wanted too.

        Equal ones are shared. Of two different ones of a name the wanted one stays, unless
        the other was asked for in this `fit`.

        Raises:
            ValueError: If two different quantities of one name are requested in one `fit`.
        """
        found = list(self.quantities)
        for quantity in wanted:
            same = [q for q in found if set(q.columns) & set(quantity.columns)]
            if same == [quantity]:
                continue
            for other in same:
                if other.name in self._asked:
                    raise ValueError(
                        f"Two different quantities of the name {other.name!r} are asked "
                        f"for in one fit: {_shown(other)} and {_shown(quantity)}. Give "
                        "both callbacks equal ones, or one of them another name."
                    )
                found.remove(other)
            found.append(quantity)
        return found

    def ask(self, wanted: Sequence[Quantity]) -> None:
        """Notes which quantities are requested; one of a new object begins anew."""
        for quantity in wanted:
            index = self.quantities.index(quantity)
            if quantity.name not in self._asked and self.quantities[index] is not quantity:
                self.quantities[index] = quantity
                self._reset([quantity])
            self._asked.add(quantity.name)

    def carry_asked(self, other: "Recorder") -> None:
        """Takes over the requests of the recorder that this one replaces."""
        self._asked |= other._asked

    def quantities_named(self, names: Iterable[str] | None) -> list[str]:
        """The names of quantities that are there; by default all without a schedule.

        Raises:
            ValueError: a name that none of them has.
        """
        if names is None:
            return [q.name for q in self.quantities if q.schedule is None]
        known = [quantity.name for quantity in self.quantities]
        given = [names] if isinstance(names, str) else list(names)
        for name in given:
            if name not in known:
                raise ValueError(
                    f"No instrumented quantity has the name {name!r}; their names are "
                    f"{known}.{did_you_mean(name, known)}"
                )
        return given

    def needs(self, measured: Collection[str]) -> set[str]:
        """The extra passes that these quantities take, and `"classes"` for targets."""
        due = [q for q in self.quantities if q.name in measured]
        passes = {name for quantity in due for name in quantity.extra_passes}
        return passes | {"classes" for quantity in due if quantity.requires_targets}

    def begin_execution(self) -> None:
        """Forgets the numbers, because an instrumented execution begins.

        They are those of its latest step that is a measurement, and there may be none.
        """
        self._snapshot = None
        if self._may_measure_nothing:
            _clear(self.values)

    def snapshot(self) -> Snapshot:
        """The numbers of the latest instrumented execution, without waiting for them."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self._on_device(), self.module_names, self.columns)
        return self._snapshot

    def read(self) -> dict[str, dict[str, float]]:
        """The numbers of the latest instrumented execution, by name and module.

        It takes one transfer from the device. There is no entry where a quantity does not
        apply to a module or was not measured; NaN and infinity are kept.
        """
        return self.snapshot().read()

    def reset(self, everything: bool = True) -> None:
        """Forgets what was kept.

        Args:
            everything: Boolean, whether to forget also what is kept across a switch of
                modes. Running averages, which belong to the loss of one mode, are
                forgotten in any case. Defaults to `True`.
        """
        self._reset([q for q in self.quantities if everything or not q.keep_across_modes])

    def _reset(self, chosen: Sequence[Quantity]) -> None:
        for quantity, lists in zip(self.quantities, self.kept, strict=True):
            for variable in tree.flatten(lists) if quantity in chosen else ():
                _clear(variable)

    def write(
        self, views: Sequence[ModuleView], measured: Collection[str], outcome: Outcome
    ) -> None:
        """Measures quantities of every module; called in a traced step.

        A step that is no measurement leaves everything as it is.

        Args:
            views: List with the `ModuleView` of each module.
            measured: Names of the quantities to measure.
            outcome: The `Outcome` of the step.
        """
        columns, applies = [], []
        for quantity, lists in zip(self.quantities, self.kept, strict=True):
            state = tree.map_structure(self._read, lists)
            if quantity.name in measured:
                found = measured_by(quantity, views, state)
                self._keep(lists, state, found.state, outcome)
            else:
                found = nothing_of(quantity, len(views), state)
            columns += found.columns
            applies += [found.applies] * len(found.columns)
        now = ops.stack(as_floats(outcome.batches))
        numbers = ops.reshape(ops.stack(columns), (-1,))
        there = np.ravel(np.array(applies, "float32"))
        new = ops.concatenate([ops.ones((1,)), now, numbers, there])
        if outcome.measured is not None:
            self._may_measure_nothing = True
            new = ops.where(outcome.measured, new, self._read(self.values)[now.shape[0] :])
        # Callbacks decide by these numbers, on every worker for itself: they must agree.
        self.values.assign(self._agreed(ops.concatenate([now, new])))

    def _keep(self, lists: list, state: list, following: list, outcome: Outcome) -> None:
        """Keeps what a quantity returned to be kept, if the step was one."""
        for variable, old, new in zip(
            *map(tree.flatten, (lists, state, following)), strict=True
        ):
            if outcome.taken is not None:
                new = ops.where(outcome.taken, new, old)
            variable.assign(new)


def _shown(quantity: Quantity) -> str:
    given = ", ".join(f"{name}={value!r}" for name, value in vars(quantity).items())
    return f"{type(quantity).__name__}({given})"


def _clear(variable: Any) -> None:
    variable.assign(np.zeros(tuple(variable.shape), "float32"))
