"""Quantities of the signals at boundaries, and of the losses."""

from typing import Any

from keras import ops

from keras_e2e.diagnostics.entries import sum_of_squares
from keras_e2e.diagnostics.joint import JointQuantity, vector
from keras_e2e.diagnostics.quantity import ModuleView, Quantity


class SignalGain(JointQuantity):
    """How much signal passes back through a module.

    A signal is the gradient of the loss with respect to a module's output. The gain is
    the norm of the gradient with respect to the module's input over that with respect to
    its output, `norm(delta_{m-1}) / norm(delta_m)`. Where the boundary before the module
    stops the gradient, the numerator is what the module would have sent back.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.SignalGain().healthy
    (0.1, 10.0)
    """

    name = "signal_gain"
    formula = "norm(delta_{m-1}) / norm(delta_m)"
    interpretation = "about 1; its product over depth says where the signal dies"
    source = "Pennington et al. 2017, dynamical isometry (arXiv 1711.04735)"
    healthy = (0.1, 10.0)

    def compute_all(self, modules, state):
        ends = [(m.input_signal, m.signal) for m in modules]
        applies = [all(end is not None for end in pair) for pair in ends]
        if not any(applies):
            return None, applies, state
        sent, received = (
            modules[0].total(
                vector(
                    sum_of_squares([pair[i]]) if there else None
                    for pair, there in zip(ends, applies, strict=True)
                )
            )
            for i in range(2)
        )
        return [ops.sqrt(sent / received)], applies, state


class SignalCoherence(JointQuantity):
    """Agreement of the examples of a batch on what a module should do.

    `norm(mean_b delta_b)^2 / mean_b norm(delta_b)^2` for the signal `delta_b` of each
    example at the module's output: `1 / batch size` when the examples are incoherent, 1
    when they are unanimous. Only its changes mean something.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.SignalCoherence().interpretation
    '1/B incoherent, 1 unanimous; only changes mean something'
    """

    name = "signal_coherence"
    formula = "norm(mean_b delta_b)^2 / mean_b norm(delta_b)^2"
    interpretation = "1/B incoherent, 1 unanimous; only changes mean something"
    source = "Chatterjee & Zielinski 2020 (arXiv 2008.01217), of gradients there"

    def compute_all(self, modules, state):
        signals = [m.signal for m in modules]
        applies = [signal is not None for signal in signals]
        if not any(applies):
            return None, applies, state
        total = modules[0].total
        first = signals[applies.index(True)]
        batch = total(ops.cast(ops.shape(first)[0], "float32"))
        sums = [None if s is None else total(ops.sum(s, axis=0)) for s in signals]
        agreed = vector(sum_of_squares([each]) for each in sums)
        squares = total(vector(sum_of_squares([signal]) for signal in signals))
        return [agreed / batch / squares], applies, state


class ModuleLoss(Quantity):
    """The loss that trains a module: its local loss, or the task loss for the last one.

    A module that an objective sends a signal has none (`objectives.Signal`).

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.ModuleLoss().name
    'loss'
    """

    name = "loss"
    formula = "local loss of the module; task loss of the last"
    interpretation = "falls; a module without one is judged by the task loss"
    source = "the compiled loss, or the objective's own source"

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        if module.loss is None:
            return None, state
        return module.total(ops.cast(module.loss, "float32")), state


class Skill(Quantity):
    """Share of the loss of a constant prediction that the inputs take away.

    `1 - loss / loss of the mean prediction`, both on the same batch and without penalties:
    0 where the prediction does as well for all examples alike, as with a model that knows
    only how frequent the classes are; 1 where nothing is left of the loss; below 0 where
    the inputs mislead. With the squared error it is the coefficient of determination of
    predictions that are right on average. A loss that may be below zero has no level at
    which nothing is left; where either of the two is, the difference is taken as a share
    of the larger size. Measured of the last module alone, on batches of two examples or
    more: with one, its prediction is the mean.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.Skill().formula
    '1 - loss / loss of the mean prediction'
    """

    name = "skill"
    formula = "1 - loss / loss of the mean prediction"
    interpretation = (
        "0: no better than a prediction that is the same for all examples; 1: no loss left"
    )
    source = "the skill score of forecasts, Murphy 1988"
    extra_passes = ("reference",)

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        if module.prediction_losses is None:
            return None, state
        loss, reference = (
            module.total(ops.cast(value, "float32")) for value in module.prediction_losses
        )
        # A share of a number below zero would turn the sign round.
        larger = ops.maximum(ops.abs(loss), ops.abs(reference))
        size = ops.where(ops.minimum(loss, reference) < 0.0, larger, reference)
        examples = module.num_examples / module.total(ops.ones(()))
        skill = (reference - loss) / size
        return ops.where(examples > 1.0, skill, float("nan")), state
