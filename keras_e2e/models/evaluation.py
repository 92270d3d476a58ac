"""Evaluation of each module by itself: loss and metrics of its own head."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_e2e.models import early_exit, linear_probe
from keras_e2e.models.evaluated_batches import evaluated_batches
from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.module import Module
from keras_e2e.objectives import head_metrics
from keras_e2e.objectives.base import Batch, LocalObjective, Output
from keras_e2e.objectives.intermediate_target import IntermediateTarget, Labeled
from keras_e2e.trainers.local_losses import build_outputs, local_loss, missing
from keras_e2e.trainers.targets import StepTargets
from keras_e2e.utils import compat
from keras_e2e.utils.progress import Progress


def evaluate_modules(
    model: Any,
    x: Any,
    y: Any,
    *,
    batch_size: int | None,
    sample_weight: Any,
    probe_data: Any,
    probe_epochs: int,
    verbose: int | str,
) -> dict[str, dict[str, float]]:
    """See `ModularBase.evaluate_modules`."""
    progress = Progress("evaluate_modules", verbose, "batch")
    model._refuse_unknown_modules("evaluate_modules()")
    if not model.compiled:
        raise ValueError(
            f"{model.name!r} is not compiled: evaluate_modules reports the compiled "
            "loss and metrics. Call model.compile(...) first."
        )
    data = evaluated_batches(model, x, y, sample_weight, batch_size)
    train_data = None
    if probe_data is not None:
        x_train, y_train, weight = (*_probe_arguments(probe_data), None, None)[:3]
        train_data = evaluated_batches(
            model, x_train, y_train, weight, batch_size, who="probe_data"
        )
    totals = {m.name: _ModuleTotals(model, m) for m in model.modules}
    progress.begin(data.count())
    step = 0
    for step, batch in enumerate(data, start=1):
        for name, result in _evaluate_batch(model, *batch).items():
            totals[name].add(result)
        progress.update(step)
    progress.end(step)
    found = {name: total.results() for name, total in totals.items()}
    if train_data is not None:
        for name in model.boundaries:
            progress.say(f"a linear probe at {name}")
            probed = linear_probe.probe(model, name, train_data, data, probe_epochs)
            found[name].update({f"probe_{k}": v for k, v in probed.items()})
    return found


def _probe_arguments(probe_data: Any) -> tuple:
    """What probes are trained on, as arguments of `Batches`."""
    if isinstance(probe_data, bool | str | int):
        raise ValueError(
            f"evaluate_modules(probe_data={probe_data!r}): expected (x_train, y_train), "
            "the examples to train the probes on, or a dataset of them."
        )
    if isinstance(probe_data, list | tuple):
        if len(probe_data) not in (2, 3):
            raise ValueError(
                f"evaluate_modules(probe_data=...): found {len(probe_data)} entries; "
                "expected (x_train, y_train) or (x_train, y_train, sample_weight)."
            )
        return tuple(probe_data)
    return (probe_data,)


class _BatchResult(NamedTuple):
    """What one batch says of one module.

    Attributes:
        size: Number of examples.
        loss: The loss of the batch, or None.
        predictions: Pairs of an output with its target and a prediction of it.
        labeled: What the module predicts of labels of its own, at each crossing.
    """

    size: int
    loss: Any
    predictions: list[tuple[Output, Any]]
    labeled: list[Labeled]


class _ModuleTotals:
    """What is known of one module, over the batches.

    Attributes:
        total: The losses of the batches times their sizes, and the sizes.
        metrics: The compiled metrics by output, each with whether it is weighted.
        own: The metrics of the labels of its own that its objective was asked for.
        labels: How many of these there were.
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
        target = module.objective
        wanted = target.asked.given if isinstance(target, IntermediateTarget) else None
        self.own = [head_metrics.make_metric(one) for one in tree.flatten(wanted or ())]
        self.labels = 0

    def add(self, result: _BatchResult) -> None:
        if result.loss is not None:
            loss = float(ops.convert_to_numpy(result.loss))
            self.total += loss * result.size
            self.size += result.size
        for output, prediction in result.predictions:
            self.seen.add(output.name)
            for metric, weighted in self.metrics[output.name]:
                weight = output.sample_weight if weighted else None
                metric.update_state(output.y, prediction, weight)

        for found in result.labeled:
            self.labels += int(ops.convert_to_numpy(found.present).sum())
            for metric in self.own:
                found.update(metric)

    def results(self) -> dict[str, float]:
        found = {"loss": self.total / self.size} if self.size else {}
        for metric in self.own if self.labels else ():
            found[metric.name] = float(ops.convert_to_numpy(metric.result()))
        for key in self.metrics:
            for metric, _ in self.metrics[key] if key in self.seen else ():
                found[metric.name] = float(ops.convert_to_numpy(metric.result()))
        return found


def _evaluate_batch(
    model: Any, x: Any, y: Any, sample_weight: Any
) -> dict[str, _BatchResult]:
    """Runs one batch in inference mode and computes what is known of each module."""
    state = model._modular
    given = model._split(y, sample_weight)
    outputs = build_outputs(model, state.keys(), given.y, given.sample_weight)
    size = int(next(t for t in tree.flatten(x) if t is not None).shape[0])
    inputs, weight = model._in_order(x), given.single_weight()
    batch = Batch(inputs, outputs, None, weight, None, training=False)
    record = model.forward_record(x)
    extra: dict[Hashable, ForwardRecord] = {}
    found = {}
    # Whatever an objective writes (statistics, seeds) is discarded. Keras reads
    # regularized weights off the scope.
    kept = [(v, v) for v in model.trainable_variables]
    with keras.StatelessScope(kept, collect_losses=True):
        for module in state.modules:
            objective, loss, labeled = module.objective, None, []
            predictions: list[tuple[Output, Any]] = []
            if module.boundary is None:
                own = tree.flatten(record.outputs)
                predictions = list(zip(outputs, own, strict=True))
                loss = _task_loss(predictions, record.penalties)
            elif objective is not None and not objective.feedback_source:
                loss = _local_loss(model, module, objective, record, batch, given, extra)
                predictions = _predictions(module, objective, record, outputs)
                labeled = _labeled(module, record, batch, given)
            known = [
                (output, value) for output, value in predictions if output.y is not None
            ]
            found[module.name] = _BatchResult(size, loss, known, labeled)
    return found


def _local_loss(
    model: Any,
    module: Module,
    objective: LocalObjective,
    record: ForwardRecord,
    batch: Batch,
    given: StepTargets,
    extra: dict[Hashable, ForwardRecord],
) -> Any:
    """The loss of a module's objective; None where its labels or targets are not there."""
    labels = given.labels.get(module.name)
    if missing(module, given.y, labels):
        return None
    for key, make_inputs in objective.extra_inputs().items():
        if key not in extra:
            extra[key] = model.forward_record(make_inputs(batch))
    weight = given.label_weights.get(module.name, batch.sample_weight)
    own = batch._replace(labels=labels, sample_weight=weight)
    return local_loss(module, objective, record, own, extra)


def _labeled(
    module: Module, record: ForwardRecord, batch: Batch, given: StepTargets
) -> list[Labeled]:
    """What a module predicts of labels of its own, at each crossing."""
    labels, target = given.labels.get(module.name), module.objective
    if labels is None or not isinstance(target, IntermediateTarget):
        return []
    if not target.asked.given:
        return []
    own, activations = batch._replace(labels=labels), record.activations(module.name)
    return [target.labeled(activation, own) for activation in activations]


def _task_loss(predictions: list, penalties: list) -> Any:
    """The compiled loss with regularization, as in `model.evaluate`."""
    terms = [
        output.loss(output.y, value, output.sample_weight)
        for output, value in predictions
        if output.loss is not None and output.y is not None
    ]
    return sum([*terms[1:], *penalties], terms[0]) if terms else None


def _predictions(
    module: Module,
    objective: LocalObjective,
    record: ForwardRecord,
    outputs: tuple[Output, ...],
) -> list:
    """What the heads of a module predict of the outputs, at each crossing."""
    named: Mapping[str, Output] = {output.name: output for output in outputs}
    return [
        (named[name], way.predict(activation))
        for activation in record.activations(module.name)
        for name, way in early_exit.exits_of(objective, outputs).items()
    ]
