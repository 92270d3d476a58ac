"""Ways to train a modular model: plans of stages, each of which trains some of it.

The regimes of the field, each a few stages long, for any modular model: end to end,
jointly with intermediate losses, module by module in any order, pre-trained, automatic.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.callbacks import AutoMode
from keras_e2e.utils.data import endless


class Stage(NamedTuple):
    """A part of a training.

    Attributes:
        share: of all steps; the shares of a plan are scaled to sum to one.
        mode: the training mode, as `model.training_mode` takes it.
        frozen: names of modules that stand still, in inference mode, as layers do whose
            `trainable` is False.
        behind: name of a boundary: only what lies behind it is trained, on stand-ins for
            what the boundary puts out (`train(ideal_activations=...)`).
        callbacks: makes further callbacks.

    Example:

    >>> from keras_e2e.experiments.regimes import Stage
    >>> Stage(0.5, "local").frozen
    ()
    """

    share: float = 1.0
    mode: Any = "end_to_end"
    frozen: tuple[str, ...] = ()
    behind: str | None = None
    callbacks: Callable[[], list] = list


class Trained(NamedTuple):
    """What came of a training.

    Attributes:
        history: for each window of steps the logs of `fit`, and the `step` at its end.
            Those of a stage that trains what lies behind a boundary begin with `rest_`.
        steps: optimizer steps, all stages together.
        examples: examples seen, repetitions included.
        parameters: the most parameters that a stage trained, heads included.
        seconds: of all, the traces included.
    """

    history: list[dict[str, float]]
    steps: int
    examples: int
    parameters: int
    seconds: float


def end_to_end(names: Sequence[str]) -> list[Stage]:
    """Everything by the task loss."""
    return [Stage()]


def joint(names: Sequence[str]) -> list[Stage]:
    """Everything by the task loss and all objectives: deep supervision.

    The "decomposition" of Shalev-Shwartz, Shamir & Shammah 2017.
    """
    return [Stage(mode="deep_supervision")]


def local(names: Sequence[str]) -> list[Stage]:
    """Every module by its own objective, the last one by the task loss, all at once."""
    return [Stage(mode="local")]


def local_then_end_to_end(names: Sequence[str]) -> list[Stage]:
    """Half of the steps locally, the other half end to end."""
    return [Stage(mode="local"), Stage()]


def step_by_step(names: Sequence[str]) -> list[Stage]:
    """One module after another, from the first, with equal shares of the steps."""
    return [Stage(mode=f"sequential:{name}") for name in names]


def last_first(names: Sequence[str]) -> list[Stage]:
    """The last module on stand-ins; then the others through it, while it stands still.

    The others learn by the task loss alone: the claim that modules learn when the rest is
    trained already and frozen (Glasmachers 2017).
    """
    return [Stage(behind=names[-2]), Stage(frozen=(names[-1],))]


def independent(names: Sequence[str]) -> list[Stage]:
    """Every module without the others, then plugged together.

    The last one learns on stand-ins, the others on their own objectives.
    """
    return [*step_by_step(names)[:-1], Stage(behind=names[-2])]


def pretrained(names: Sequence[str]) -> list[Stage]:
    """All modules but the last in turn, for half of the steps; then end to end.

    With objectives that need no labels this is unsupervised pre-training.
    """
    first = [stage._replace(share=1.0) for stage in step_by_step(names)[:-1]]
    return [*first, Stage(float(len(first)))]


def auto(names: Sequence[str]) -> list[Stage]:
    """End to end, and locally what is judged starved (`callbacks.AutoMode`)."""
    return [Stage(callbacks=lambda: [AutoMode()])]


PLANS: dict[str, Callable[[Sequence[str]], list[Stage]]] = {
    "end_to_end": end_to_end,
    "joint": joint,
    "local": local,
    "local_then_end_to_end": local_then_end_to_end,
    "step_by_step": step_by_step,
    "last_first": last_first,
    "independent": independent,
    "pretrained": pretrained,
    "auto": auto,
}
"""The plans by name: each makes its stages from the names of the modules, in order."""


def train(
    model: Any,
    plan: str | Iterable[Stage],
    x: Any,
    y: Any,
    *,
    steps: int,
    batch_size: int = 128,
    seed: int = 0,
    window: int = 100,
    ideal_activations: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Trained:
    """Trains a compiled modular model by a plan.

    The optimizer goes on from stage to stage, as it does when the mode is switched in
    `fit`. A stage with `behind` has an optimizer of its own, made like the model's.

    Args:
        model: a compiled modular model.
        plan: a name from `PLANS`, or stages.
        x: inputs, arrays.
        y: targets, and intermediate labels by name, as in `model.fit`; arrays.
        steps: of all stages together, a multiple of `window`.
        batch_size: examples in a batch; every batch is full.
        seed: of the batches: each stage goes on in an order of its own.
        window: steps from one entry of the history to the next.
        ideal_activations: what the boundary ought to put out, for each example, by its name.
        callbacks: for all stages whose `behind` is None.

    Returns:
        A `Trained`. The model's `training_mode` is that of the last stage.

    Raises:
        ValueError: an unknown plan, module or boundary, steps that cannot be divided so,
            or a stage without its stand-ins; nothing is trained then.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> found = e2e.regimes.train(model, "step_by_step", np.ones((64, 2)), np.ones((64, 1)),
    ...                           steps=4, batch_size=16, window=2)
    >>> found.steps, [sorted(logs) for logs in found.history]
    (4, [['loss', 'step'], ['loss', 'step']])
    """
    names = [module.name for module in model.modules]
    stages = _stages(plan, names)
    parts = _parts(stages, steps, window)
    _check(model, stages, names, ideal_activations or {})
    begin = time.perf_counter()
    history: list[dict[str, float]] = []
    most = 0
    for number, (stage, windows) in enumerate(zip(stages, parts, strict=True)):
        fit = {
            "steps_per_epoch": window,
            "epochs": windows,
            "verbose": 0,
            "shuffle": False,
        }
        order = seed + 1000 * number
        if stage.behind is None:
            batches = endless((x, y), batch_size, order)
            with frozen_modules(model, stage.frozen):
                model.training_mode = stage.mode
                most = max(most, _trained(model.trainable_variables))
                used = [*stage.callbacks(), *callbacks]
                logs = model.fit(batches, callbacks=used, **fit).history
        else:
            rest = _compiled_rest(model, stage.behind)
            most = max(most, _trained(rest.trainable_variables))
            own = model._split(y, None)[0]
            entering = np.asarray((ideal_activations or {})[stage.behind])
            inputs = (*model._flat_inputs(x), entering)
            found = rest.fit(endless((inputs, own), batch_size, order), **fit).history
            # What the rest makes of stand-ins is no number of the whole model.
            logs = {f"rest_{name}": values for name, values in found.items()}
        done = history[-1]["step"] if history else 0
        for i in range(windows):
            here = {name: float(values[i]) for name, values in logs.items()}
            history.append({**here, "step": done + (i + 1) * window})
    seconds = time.perf_counter() - begin
    return Trained(history, steps, steps * batch_size, most, seconds)


@contextlib.contextmanager
def frozen_modules(model: Any, names: Iterable[str]) -> Iterator[None]:
    """Lets the named modules stand still, as layers do whose `trainable` is False."""
    names = set(names)
    layers = [x for m in model.modules if m.name in names for x in m.layers]
    before = [layer.trainable for layer in layers]
    if layers:
        model.make_train_function(force=True)  # what was traced trains them
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.trainable = was
        if layers:
            model.make_train_function(force=True)


def transfer_weights(source: keras.Model, target: keras.Model) -> list[str]:
    """Copies the weights of layers that both models have, by name and shapes.

    For a curriculum: train a model for tuples of one image, carry the encoder over to the
    model for two, and so on.

    Args:
        source: the model that has learned.
        target: the model that goes on from there.

    Returns:
        The names of the layers that were copied.

    Example:

    >>> import keras_e2e as e2e
    >>> one, two = (e2e.tasks.parity_model(k, d=64, seed=k) for k in (1, 2))
    >>> e2e.regimes.transfer_weights(one, two)[:3]
    ['encoder_1', 'encoder_2', 'symbols']
    """
    copied = []
    theirs = {layer.name: layer for layer in source.layers if layer.weights}
    for layer in target.layers:
        found = theirs.get(layer.name)
        if found is None or not layer.weights:
            continue
        shapes = [tuple(w.shape) for w in layer.weights]
        if [tuple(w.shape) for w in found.weights] == shapes:
            layer.set_weights(found.get_weights())
            copied.append(layer.name)
    return copied


def _stages(plan: str | Iterable[Stage], names: Sequence[str]) -> list[Stage]:
    if not isinstance(plan, str):
        return list(plan)
    if plan not in PLANS:
        raise ValueError(f"plan={plan!r}: expected one of {list(PLANS)}, or stages.")
    return PLANS[plan](names)


def _parts(stages: list[Stage], steps: int, window: int) -> list[int]:
    """The windows of each stage."""
    for name, value in (("steps", steps), ("window", window)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number, 1 or larger.")
    if not stages or any(not stage.share > 0 for stage in stages):
        raise ValueError("The plan needs stages, each with a share above 0.")
    windows, left = divmod(steps, window)
    if left or windows < len(stages):
        raise ValueError(
            f"steps={steps}: expected a multiple of window={window}, and a window for each "
            f"of the {len(stages)} stages."
        )
    total = sum(stage.share for stage in stages)
    ends = np.cumsum([stage.share / total for stage in stages]) * windows
    parts = np.diff(np.round(ends).astype(int), prepend=0)
    return [int(part) for part in parts]


def _check(
    model: Any, stages: list[Stage], names: list[str], ideal_activations: Mapping
) -> None:
    for stage in stages:
        unknown = sorted(set(stage.frozen) - set(names))
        if unknown:
            raise ValueError(f"frozen={unknown}: no such modules. The modules: {names}.")
        model.check_training_mode(stage.mode)
        if stage.behind is not None and stage.behind not in ideal_activations:
            raise ValueError(
                f"A stage trains what lies behind {stage.behind!r} on stand-ins for what "
                f"that puts out; ideal_activations has {sorted(ideal_activations)}. Give "
                f"ideal_activations={{{stage.behind!r}: ...}}, such as one-hot labels."
            )


def _compiled_rest(model: Any, name: str) -> keras.Model:
    """What lies behind a boundary, compiled like the model, with a fresh optimizer."""
    rest = model.downstream_model(name)
    rest.compile_from_config(model.get_compile_config())
    return rest


def _trained(variables: list) -> int:
    return int(sum(np.prod(v.shape) for v in variables))
