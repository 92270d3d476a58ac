"""Linear probes: how much of the outputs can be read off a frozen activation."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.objectives import head_metrics, heads
from keras_e2e.objectives.prediction import ending_for_loss
from keras_e2e.trainers.local_losses import build_outputs
from keras_e2e.utils import compat

# The largest step of Adam, from where it goes down to 0 along a cosine.
LEARNING_RATE = 0.01


def probe(
    model: Any, name: str, train_data: Iterable, data: Iterable, epochs: int
) -> dict[str, float]:
    """Trains a linear probe on the activation of a boundary and evaluates it.

    One for each output: standardized features, a Dense layer from zero, the ending of
    the model, the compiled loss, Adam. No random number is drawn but from a generator
    of its own.

    Args:
        model: A compiled modular model.
        name: The boundary's name.
        train_data: Batches `(x, y, sample_weight)` to train on.
        data: Batches to evaluate on.
        epochs: Passes over `train_data`.

    Returns:
        Loss and compiled metrics; with several outputs under `<output>_<metric>`.

    Raises:
        ValueError: If there are no targets, if the activation does not fit them, or if
            the boundary is crossed more than once.
    """
    state = model._modular
    module = next(m for m in state.modules if m.name == name)
    keys = state.keys()
    aliases = getattr(model, "output_names", None) or ()
    given = [
        head_metrics.by_output(asked, keys, aliases)
        for asked in compat.compiled_metrics(model)
    ]
    found: dict[str, float] = {}
    for place, (key, output) in enumerate(zip(keys, state.outputs, strict=True)):
        loss = build_outputs(model, keys, None, None)[place].compiled_loss
        if loss is None:
            continue
        target = tuple(output.spec.shape)
        train = _features(model, module, place, target, train_data)
        test = _features(model, module, place, target, data)
        ending = output.ending or ending_for_loss(loss)
        metrics = [
            [head_metrics.make_metric(one) for one in asked[place]] for asked in given
        ]
        numbers = _fit_and_evaluate(train, test, target[-1], ending, loss, metrics, epochs)
        prefix = f"{key}_" if len(keys) > 1 else ""
        found.update({prefix + k: float(v) for k, v in numbers.items()})
    return found


def _fit_and_evaluate(
    train: list, test: list, units: int, ending: Any, loss: Any, metrics: list, epochs: int
) -> dict[str, Any]:
    """Trains a Dense layer on standardized features and evaluates it on others.

    Args:
        train: Features, targets and weights (or None) to train on.
        test: The same to evaluate on.
        units: Size of the prediction.
        ending: The activation that the model ends with.
        loss: As `compile` takes it.
        metrics: Metrics and weighted metrics.
        epochs: Passes over the training data.
    """
    mean, scale = _moments(train[0])
    inputs = keras.Input(train[0].shape[1:])
    raw = keras.layers.Dense(units, kernel_initializer="zeros", dtype="float32")
    classifier = keras.Model(inputs, ending(raw(inputs)), name="probe")
    steps = epochs * -(-len(train[0]) // 32)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, max(steps, 1))
    classifier.compile(
        keras.optimizers.Adam(rate),
        loss,
        metrics=metrics[0],
        weighted_metrics=metrics[1],
        jit_compile=False,
    )
    order = np.random.default_rng(0).permutation(len(train[0]))
    x, y, weight = (None if a is None else a[order] for a in train)
    options: dict = {"batch_size": 32, "verbose": 0}
    x = (x - mean) / scale
    fit = {"sample_weight": weight, "epochs": epochs, "shuffle": False}
    classifier.fit(x, y, **fit, **options)
    x, y, weight = test
    x = (x - mean) / scale
    return classifier.evaluate(x, y, sample_weight=weight, return_dict=True, **options)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature; 1 where it is constant."""
    mean = features.mean(axis=0, dtype="float64").astype("float32")
    scale = features.std(axis=0, dtype="float64").astype("float32")
    # Rounding leaves a constant a tiny deviation.
    constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return mean, np.where(constant, np.float32(1.0), scale)


def _features(
    model: Any, module: Any, place: int, target: tuple, batches: Iterable
) -> list[Any]:
    """The pooled activations, the targets and weights of one output, as arrays."""
    state = model._modular
    pool: list | None = None
    rows: list[tuple] = []
    for x, y, sample_weight in batches:
        given = model._split(y, sample_weight)
        outputs = build_outputs(model, state.keys(), given.y, given.sample_weight)
        output = outputs[place]
        if output.y is None:
            raise ValueError(
                f"evaluate_modules: a probe needs targets of the output {output.name!r}, "
                "in the data to train it on and in the data to evaluate. Give y, or leave "
                "probe_data out."
            )
        crossed = model.forward_record(x).activations(module.name)
        if len(crossed) != 1:
            raise ValueError(
                f"evaluate_modules: boundary {module.name!r} is crossed {len(crossed)} "
                "times in a pass, so it is not known which activation goes with a "
                "target. Apply the module once, to the stacked inputs."
            )
        activation, mask = crossed[0], compat.mask_of(crossed[0])
        if pool is None:
            pool = _pooling(module.name, activation, target)
        for layer in pool:
            activation = layer(activation)
        row = (ops.cast(activation, "float32"), output.y, output.sample_weight, mask)
        arrays = [None if t is None else ops.convert_to_numpy(t) for t in row]
        rows.append(tuple(arrays[:3]) if len(target) == 2 else _positions(*arrays))
    return [
        None if column[0] is None else np.concatenate(column)
        for column in zip(*rows, strict=True)
    ]


def _positions(features: Any, y: Any, weight: Any, mask: Any) -> tuple:
    """Each position as an example; masked ones, such as padding, are left out."""
    shape = features.shape[:-1]
    kept = slice(None) if mask is None else np.reshape(mask, -1).astype(bool)
    if weight is not None:
        weight = weight.reshape(weight.shape + (1,) * (len(shape) - weight.ndim))
        weight = np.broadcast_to(weight, shape).reshape(-1)[kept]
    y = y.reshape((-1, *y.shape[len(shape) :]))[kept]
    return features.reshape((-1, features.shape[-1]))[kept], y, weight


def _pooling(name: str, activation: Any, target: tuple) -> list:
    """The layers before the Dense of a linear head on an activation."""
    shape = (None, *activation.shape[1:])
    if len(target) == 2:
        spec = keras.KerasTensor(shape, dtype="float32")
        # Its Dense starts from zero: no random number is drawn.
        return heads.make_head("linear", spec, target, "float32").layers[:-1]
    sizes = list(zip(shape[1:-1], target[1:-1], strict=False))
    if len(target) != len(shape) or any(b not in (None, a) for a, b in sizes):
        raise ValueError(
            f"evaluate_modules: no linear probe from the activation {shape} of boundary "
            f"{name!r} to an output of shape {target}: there must be one value for each "
            "example, or one for each position of the activation. Leave probe_data out."
        )
    return []
