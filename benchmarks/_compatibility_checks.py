"""What `compatibility.py` asks of a model: one check after the other, in its process."""

import contextlib
import pathlib
import pickle
import time
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
from _compatibility_case import BATCH, Case
from _compatibility_outcome import (
    TooFew,
    demand,
    names_of,
    of_stock,
    or_stock,
    outcome,
    same,
)
from _compatibility_report import CHECKS, RUNNING

import keras_e2e as e2e
from keras_e2e.models.rewiring import flat_graph
from keras_e2e.modules.call_costs import graph_costs
from keras_e2e.modules.cut_points import most_cuts
from keras_e2e.modules.graph import OUTPUT, Graph

MOST_MODULES = 4
Report = Callable[[str, dict], None]


def predicted(model: keras.Model, x: Any) -> Any:
    """What a model predicts."""
    return model.predict(x, batch_size=BATCH, verbose=0)


def fitted(model: keras.Model, data: tuple, **options: Any) -> dict:
    """The logs of an epoch."""
    keras.utils.set_random_seed(2)
    return fitted_further(model, data, **options)


def fitted_further(model: keras.Model, data: tuple, **options: Any) -> dict:
    """The logs of an epoch, from the seeds that the model holds.

    Seeding anew makes TensorFlow optimize its graphs once more.
    """
    given = dict(zip(("x", "y", "sample_weight"), data, strict=False))
    return model.fit(**given, batch_size=BATCH, verbose=0, **options).history


def array(variable: Any) -> np.ndarray:
    """A copy of a variable's value."""
    return np.array(keras.ops.convert_to_numpy(variable))


def state_of(model: keras.Model) -> list[np.ndarray]:
    """All that a step changes, and the weights."""
    return [array(v) for v in (*model.variables, *model.optimizer.variables)]


def restore(model: keras.Model, state: list[np.ndarray]) -> None:
    """Sets what `state_of` returned."""
    variables = (*model.variables, *model.optimizer.variables)
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)


class Checks:
    """The checks of a case, in the order of `CHECKS`.

    Args:
        case: The case.
        folder: Where models are saved.
        only: Names of checks. Defaults to `None`: all of them.
    """

    def __init__(
        self, case: Case, folder: pathlib.Path, only: Collection[str] | None = None
    ):
        self.case, self.folder, self.only = case, folder, only or CHECKS
        self.stock, self.base = self._made(), self._made()
        self.data = case.batch(self.stock)
        self.model: Any = None
        self.begun: list = []

    def _made(self) -> keras.Model:
        # TensorFlow orders sums by names, so that those of the two are to be equal.
        keras.backend.clear_session()
        keras.utils.set_random_seed(1)
        return self.case.make()

    def run(self, report: Report) -> None:
        """Makes all checks, and reports each before and after."""
        for name in self.only:
            begun = time.perf_counter()
            report(name, {"result": RUNNING})
            found = outcome(getattr(self, name), names_of(self.base))
            report(name, {**found, "seconds": round(time.perf_counter() - begun, 1)})
            if name == "modularize" and self.model is None:
                return

    def _split(self, modules: int) -> Any:
        options = {"objective": None, **self.case.options}
        try:
            return e2e.modularize(self.base, modules - 1, **options)
        except ValueError as error:
            if "cut point" in str(error):
                raise TooFew from error
            raise

    def cuts(self) -> int | str:
        """How many boundaries find a place at the same time."""
        if not hasattr(self.base, "operations") and self.case.boundaries:
            raise TooFew  # code has no cut points
        return most_cuts(flat_graph(self.base, self.case.options.get("shared")))

    def halves(self) -> float:
        """The largest of two modules, of its fair share."""
        return self._largest(2)

    def quarters(self) -> float:
        """The largest of four modules, of its fair share."""
        return self._largest(4)

    def _largest(self, modules: int) -> float:
        if self.case.boundaries is not None:
            raise TooFew
        graph = Graph(self._split(modules)._modular.graph)
        reached, costs = graph.ends(), graph_costs(graph.calls, "memory")
        found: dict = dict.fromkeys([*graph.boundaries(), OUTPUT], 0)
        for call, cost in zip(graph.calls, costs, strict=True):
            if call.outputs and (ends := reached.get(id(call.outputs[0]))):
                found[next(end for end in found if end in ends)] += cost
        return round(max(found.values()) * modules / sum(found.values()), 2)

    def modularize(self) -> int:
        """The number of modules that all else is tried with."""
        if self.case.boundaries is not None:
            self.model = e2e.modularize(
                self.base, self.case.boundaries, **self.case.options
            )
        else:
            for modules in range(MOST_MODULES, 0, -1):
                try:
                    self._split(modules)
                    break
                except TooFew:
                    if modules == 2:
                        break  # what is refused is said below
            self.model = e2e.modularize(self.base, modules - 1, **self.case.options)
        return len(self.model.modules)

    def predict(self) -> None:
        """Whether inference is that of the model, to the bit."""
        self.case.compile(self.stock)
        self.case.compile(self.model)
        expected = of_stock(lambda: predicted(self.stock, self.data[0]))
        demand(same(expected, predicted(self.model, self.data[0])), "another prediction")

    def train(self) -> None:
        """Whether training end to end is that of the model, to the bit."""
        self.begun = [array(v) for v in self.model.weights]
        expected = of_stock(lambda: fitted(self.stock, self.data))
        found = fitted(self.model, self.data)
        demand(expected == found, f"logs {found}, stock {expected}")
        weights = zip(self.stock.weights, self.base.weights, strict=True)
        off = [a.path for a, b in weights if not same(array(a), array(b))]
        demand(not off, f"other weights after training: {off[:5]} ({len(off)} in all)")

    def local(self) -> None:
        """Whether local training in a graph trains each module."""
        # From the weights there were first: end to end the model may have diverged.
        for variable, value in zip(self.model.weights, self.begun, strict=False):
            variable.assign(value)
        self.model.training_mode = "local"
        self.start = state_of(self.model)
        self.logs = fitted(self.model, self.data)
        self._demand_trained(self.logs)

    def _demand_trained(self, logs: dict) -> None:
        finite = all(np.isfinite(value).all() for value in logs.values())
        demand(finite, f"a loss is not finite: {logs}")
        values = dict(zip(map(id, self.model.variables), self.start, strict=False))
        for module in self.model.modules:
            variables = module.trainable_variables
            moved = any(not same(array(v), values[id(v)]) for v in variables)
            demand(moved or not variables, f"module {module.name!r} was not trained")

    def isolated(self) -> None:
        """Whether a module is trained alike whatever those downstream of it are like."""
        # Heads begin at zero, so this begins where the check before ended. One step: in the
        # next one a module may see what another one learned of a matrix that they share.
        begun = state_of(self.model)
        self._step()
        modules = {module.name: module for module in self.model.modules}
        expected = {name: values_of(module) for name, module in modules.items()}
        used = {id(v) for module in modules.values() for v in module.borrowed}
        rng = np.random.default_rng(0)
        for module in self.model.modules[1:]:
            restore(self.model, begun)
            for variable in module.trainable_variables:
                if id(variable) not in used:  # an upstream module computes with it
                    noise = rng.normal(size=variable.shape).astype("float32")
                    variable.assign(array(variable) + 0.5 * noise)
            self._step()
            for name in upstream_of(module, modules):
                demand(
                    same(values_of(modules[name]), expected[name]),
                    f"what {module.name!r} is like changes how {name!r} is trained",
                )
        restore(self.model, begun)

    def _step(self) -> None:
        fitted_further(self.model, self.data, shuffle=False, steps_per_epoch=1)

    def xla(self) -> float:
        """How far the loss of local training under XLA is from that in a graph."""
        logs = or_stock(lambda: self._under_xla(self.model), lambda: self._under_xla())
        self._demand_trained(logs)
        return float(f"{abs(logs['loss'][0] / self.logs['loss'][0] - 1):.1g}")

    def _under_xla(self, model: keras.Model | None = None) -> dict:
        self.case.compile(model or self.stock, jit_compile=True)
        if model is not None:
            for variable, value in zip(model.variables, self.start, strict=False):
                variable.assign(value)
        return fitted(model or self.stock, self.data)

    def strip(self) -> str | None:
        """Whether the stripped model predicts the same; its class, if it is another."""
        self.case.compile(self.model)
        self.expected = predicted(self.model, self.data[0])
        self.stripped = e2e.strip(self.model)
        self.case.compile(self.stripped)
        found = predicted(self.stripped, self.data[0])
        demand(same(self.expected, found), "another prediction")
        cls = type(self.stripped)
        return None if cls is type(self.base) else f"yes, a {cls.__name__}"

    def saved(self) -> list[str]:
        """Saves them, to be loaded in a fresh process; returns how the files are named."""
        self.case.compile(self.stock)
        expected = dict.fromkeys(("modular", "stripped"), self.expected)
        expected["stock"] = predicted(self.stock, self.data[0])
        (self.folder / "expected").write_bytes(pickle.dumps((self.data[0], expected)))

        def save(**models: keras.Model) -> None:
            for name, model in models.items():
                model.save(self.folder / f"{name}.keras")

        or_stock(
            lambda: save(modular=self.model, stripped=self.stripped),
            lambda: save(stock=self.stock),
        )
        with contextlib.suppress(Exception):
            save(stock=self.stock)  # where the others cannot be loaded: can this one be?
        return ["modular", "stripped"]


def values_of(module: Any) -> list[np.ndarray]:
    """The values of a module's variables."""
    return [array(variable) for variable in module.variables]


def upstream_of(module: Any, modules: dict[str, Any]) -> set[str]:
    """The names of the modules that lead to one."""
    found: set[str] = set()
    waiting = list(module.inputs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(modules[name].inputs)
    return found
