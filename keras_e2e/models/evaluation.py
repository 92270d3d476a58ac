"""Looking at each module by itself: evaluation per module, early exit, linear probes."""

from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_e2e.models import downstream, early_exit, linear_probe
from keras_e2e.modules.boundary import Collector, collecting
from keras_e2e.modules.graph import Module
from keras_e2e.objectives import head_metrics
from keras_e2e.objectives.base import Batch, Output
from keras_e2e.trainers.local_losses import activations, build_outputs, local_loss, missing
from keras_e2e.utils import compat
from keras_e2e.utils.data import Batches


class ModuleEvaluation:
    """Mixin of modular models: `evaluate_modules`, `early_exit_model` and `downstream_model`."""

    _modular: Any
    name: str

    def early_exit_model(self, name: str) -> keras.Model:
        """The stock Keras model that leaves this one early, by a module's head.

        It consists of the layers up to the boundary, of the head's layers and of the
        model's ending (a softmax, say). Layers and weights are shared with this model,
        so it is as good as the head is now, and goes on changing while this model
        trains. It is not compiled. Nothing of keras_e2e is needed to load what it
        saves. With an objective on intermediate labels (`IntermediateTarget`) it predicts those.

        Args:
            name: a boundary's name, as in `model.modules`.

        Returns:
            A Functional model with this model's inputs. For a head of several outputs
            a dict by output name if this model puts out a dict, else a list.

        Raises:
            ValueError: an unknown name, or the last module's; an objective without a
                head that predicts outputs or labels; a head that consists of classes
                of keras_e2e; a subclassed model, which shows no graph.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, activation="softmax")])
        >>> early = e2e.modularize(base, ["code"]).early_exit_model("code")
        >>> early(np.ones((5, 8))).shape == (5, 3)
        True
        """
        return early_exit.early_exit_model(self, name)

    def downstream_model(self, name: str) -> keras.Model:
        """The stock Keras model of what lies behind a boundary, up to the outputs.

        To train the later modules on what the earlier ones ought to put out. Layers and
        weights are shared with this model. It is not compiled.

        Args:
            name: a boundary's name, as in `model.modules`.

        Returns:
            A Functional model whose inputs are a list: those of this model (they may
            enter later modules), then what comes out of the boundary.

        Raises:
            ValueError: an unknown name; a boundary that is crossed more than once; a
                subclassed model, which shows no graph.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, activation="softmax")])
        >>> rest = e2e.modularize(base, ["code"]).downstream_model("code")
        >>> rest([np.ones((5, 8)), np.ones((5, 4))]).shape == (5, 3)
        True
        """
        return downstream.downstream_model(self, name)

    def evaluate_modules(
        self,
        x: Any = None,
        y: Any = None,
        *,
        batch_size: int = 32,
        sample_weight: Any = None,
        probe: Any = None,
        probe_epochs: int = 20,
        verbose: int = 0,
    ) -> dict[str, dict[str, float]]:
        """Loss and metrics of each module's own head, in inference mode.

        Every boundary is evaluated, whatever the training mode, also if its head was
        never trained. Nothing of the model changes. Losses are those of the objectives
        alone, without their weights. Random draws of an objective are the same in each
        batch. Batches run one by one, not compiled.

        Args:
            x: inputs: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset` (these
                two with targets and weights).
            y: targets, with arrays; labels of a boundary under its name, as in `fit`.
            batch_size: of arrays. Default: 32. Losses that compare the examples of a
                batch depend on it.
            sample_weight: weights, with arrays, as in `fit`.
            probe: `(x_train, y_train)` or a dataset: for each boundary and output a
                linear classifier (or regressor) is trained on the frozen activation of
                these examples and evaluated on `x` and `y`. It sees at most 2048 values
                (larger maps are average-pooled), standardised; it ends as the model
                ends, and is trained with the compiled loss by Adam from zero, the same
                each time. All activations of one boundary are held in memory.
            probe_epochs: passes over the probe's examples. Default: 20.
            verbose: 1 shows a progress bar, 0 nothing.

        Returns:
            For each module its numbers: `"loss"`, the compiled metrics of a head that
            predicts the model's outputs (`"accuracy"`; with several outputs
            `"<output>_accuracy"`), and `"probe_<metric>"`. The loss is left out where its
            labels are not given, and for objectives without one (signals). For the
            last module these are the task loss and metrics as of `model.evaluate`.

        Raises:
            RuntimeError: a subclassed model whose modules are not known yet.
            ValueError: a model that is not compiled; arrays of different lengths; a
                probe for targets that are not given.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, activation="softmax", name="y")])
        >>> model = e2e.modularize(base, ["code"])
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> x, y = np.ones((6, 8), "float32"), np.array([0, 1, 2, 0, 1, 2])
        >>> numbers = model.evaluate_modules(x, y)
        >>> {name: sorted(found) for name, found in numbers.items()}
        {'code': ['accuracy', 'loss'], 'y': ['accuracy', 'loss']}
        """
        model: Any = self
        modules = self._modular.modules
        if not modules:
            raise RuntimeError(
                f"{self.name!r}: the modules are not known yet. Call "
                "model.examine(x_of_a_few_examples) before evaluate_modules()."
            )
        if not model.compiled:
            raise ValueError(
                f"{self.name!r} is not compiled: evaluate_modules reports the compiled "
                "loss and metrics. Call model.compile(...) first."
            )
        data = Batches(x, y, sample_weight, batch_size=batch_size)
        teaching = None
        if probe is not None:
            x_train, *more = _teaching(probe)
            teaching = Batches(x_train, *more, batch_size=batch_size, who="probe")
        tables = {m.name: _Table(model, m) for m in modules}
        bar = keras.utils.Progbar(data.count(), verbose=verbose, unit_name="batch")
        for step, batch in enumerate(data, start=1):
            for name, reading in _read(model, *batch).items():
                tables[name].add(reading)
            bar.update(step, finalize=False)
        bar.update(step, finalize=True)
        found = {name: table.results() for name, table in tables.items()}
        if teaching is not None:
            for name in model.boundaries:
                taught = linear_probe.probed(model, name, teaching, data, probe_epochs)
                found[name].update({f"probe_{k}": v for k, v in taught.items()})
        return found


def _teaching(probe: Any) -> tuple:
    """What a probe is trained on, as arguments of `Batches`."""
    if isinstance(probe, bool | str | int):
        raise ValueError(
            f"evaluate_modules(probe={probe!r}): expected (x_train, y_train), the examples "
            "to train the probes on, or a dataset of them."
        )
    if isinstance(probe, list | tuple):
        if len(probe) not in (2, 3):
            raise ValueError(
                f"evaluate_modules(probe=...): found {len(probe)} entries; expected "
                "(x_train, y_train) or (x_train, y_train, sample_weight)."
            )
        return tuple(probe)
    return (probe,)


class _Reading(NamedTuple):
    """One batch of one module.

    Attributes:
        size: number of examples.
        loss: the loss of the batch, or None.
        predictions: pairs of an output with its target and a prediction of it.
    """

    size: int
    loss: Any
    predictions: list[tuple[Output, Any]]


class _Table:
    """What is read of one module, over the batches.

    Attributes:
        total: the losses of the batches times their sizes, and the sizes.
        metrics: the compiled metrics by output, each with whether it is weighted.
    """

    def __init__(self, model: Any, module: Module):
        keys = model._modular.keys()
        aliases = getattr(model, "output_names", None) or ()
        self.total, self.size = 0.0, 0
        self.metrics: dict[str, list] = {key: [] for key in keys}
        given = compat.compiled_metrics(model)
        for asked, weighted in zip(given, (False, True), strict=True):
            own = head_metrics.by_output(asked, keys, aliases)
            for key, identifiers in zip(keys, own, strict=True):
                prefix = f"{key}_" if len(keys) > 1 else ""
                self.metrics[key] += [
                    (head_metrics.make_metric(one, prefix), weighted) for one in identifiers
                ]
        self.seen: set[str] = set()

    def add(self, reading: _Reading) -> None:
        if reading.loss is not None:
            loss = float(ops.convert_to_numpy(reading.loss))
            self.total += loss * reading.size
            self.size += reading.size
        for output, prediction in reading.predictions:
            self.seen.add(output.name)
            for metric, weighted in self.metrics[output.name]:
                weight = output.sample_weight if weighted else None
                metric.update_state(output.y, prediction, weight)

    def results(self) -> dict[str, float]:
        found = {"loss": self.total / self.size} if self.size else {}
        for key in self.metrics:
            for metric, _ in self.metrics[key] if key in self.seen else ():
                found[metric.name] = float(ops.convert_to_numpy(metric.result()))
        return found


def _read(model: Any, x: Any, y: Any, sample_weight: Any) -> dict[str, _Reading]:
    """Runs one batch in inference mode and computes what is known of each module."""
    state = model._modular
    y, sample_weight, given, weights = model._split(y, sample_weight)
    outputs = build_outputs(model, state.keys(), y, sample_weight)
    size = int(next(t for t in tree.flatten(x) if t is not None).shape[0])
    single = None if isinstance(sample_weight, dict | list | tuple) else sample_weight
    batch = Batch(x, outputs, None, single, None, training=False)
    found = {}
    # Whatever a layer or an objective writes (statistics, seeds) is let go of. Keras
    # reads regularised weights off the scope.
    kept = [(v, v) for v in model.trainable_variables]
    with keras.StatelessScope(kept, collect_losses=True):
        collector = Collector(state.known)
        predictions = _pass(model, x, collector)
        penalties = [ops.sum(penalty) for penalty in model.losses]
        views: dict = {}
        for module in state.modules:
            own = batch._replace(
                labels=given.get(module.name),
                sample_weight=weights.get(module.name, single),
            )
            loss, told = None, []
            if module.boundary is None:
                told = list(zip(outputs, tree.flatten(predictions), strict=True))
                loss = _task_loss(told, penalties)
            elif module.objective is not None and not module.objective.feedback_source:
                if _has_labels(module, y, own.labels):
                    for key, inputs_of in module.objective.extra_inputs().items():
                        if key not in views:
                            views[key] = Collector(state.known)
                            _pass(model, inputs_of(batch), views[key])
                    flat = model._flat_inputs(x)
                    loss = local_loss(module, collector, flat, own, views)
                told = _told(module, collector, outputs)
            known = [(output, value) for output, value in told if output.y is not None]
            found[module.name] = _Reading(size, loss, known)
    return found


def _pass(model: Any, x: Any, collector: Collector) -> Any:
    with collecting(collector):
        return model(x, training=False)


def _has_labels(module: Module, y: Any, labels: Any) -> bool:
    assert module.objective is not None, "a module without an objective has no loss"
    return missing(module, y, labels) is None


def _task_loss(told: list, penalties: list) -> Any:
    """The compiled loss with regularisation, as in `model.evaluate`."""
    terms = [
        output.loss(output.y, value, output.sample_weight)
        for output, value in told
        if output.loss is not None and output.y is not None
    ]
    return sum([*terms[1:], *penalties], terms[0]) if terms else None


def _told(module: Module, collector: Collector, outputs: tuple[Output, ...]) -> list:
    """What the heads of a module predict of the outputs, at each crossing."""
    assert module.objective is not None, "a module without an objective has no head"
    named = {output.name: output for output in outputs}
    return [
        (named[name], way.predict(activation))
        for activation in activations(module, collector)
        for name, way in early_exit.exits_of(module.objective, outputs).items()
    ]
