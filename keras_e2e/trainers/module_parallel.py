"""Training modules at the same time, each on a batch of its own."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_e2e.modules.call_costs import graph_costs
from keras_e2e.modules.graph import OUTPUT, Graph
from keras_e2e.optimizers.apply_apart import why_not_apart
from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
from keras_e2e.trainers.one_pass import why_one_apply, why_together
from keras_e2e.utils.warned import warn_user

# Below this there is nothing to win that timings would show.
_WORTH = 1.1
# After so many executions that measured, one after the other, it is said what that costs.
_MEASURED = 3


class _Open(threading.local):
    def __init__(self) -> None:
        self.parallels: list[ModuleParallel] = []


class ModuleParallel:
    """Lets `fit` train the modules of a model at the same time.

    Where gradients stop at the boundaries (mode `"local"`), a module needs of the next ones
    nothing: while module 2 trains on a batch, module 1 can train on the next batch already.
    Each module takes each batch with the weights that all batches before have left it, and
    is given what the module before it computed for that batch: nothing is stale, and the
    weights are those of `fit` without this, to the bit.

    `compile(steps_per_execution=N)` says how many batches are under way at once. Between
    executions, where callbacks run, all modules have trained on the same batches: metrics,
    checkpoints, switches of mode and diagnostics are those of Keras. Of `K` equal modules
    an execution takes the time of `N + K - 1` batches of one module, so take `N` well above
    `K`; tracing takes the longer, the larger `N`.

    The operations of a module run on the device that its weights are on: for several
    devices, make the layers of each module of a chain in a `with tf.device(...):`. The
    head of its objective is made there. On one device the modules share its threads.
    Operations that several threads compute together gain the less from it: on a CPU, set
    `tf.config.threading.set_intra_op_parallelism_threads(1)` before anything is computed.

    Steps are taken one after another, as usual, where they cannot be taken at once: in
    modes that train all modules by one loss (a warning says so), in executions that measure
    diagnostics, in those of fewer than `N` batches (the last of an epoch), outside of
    `fit`, and in other threads than the one that enters it.

    Layers and schedules may read the optimizer's `iterations`, for each step its number;
    not in a `tf.function` of their own, and not by the `tf.Variable` in it, taken before.
    Where an error in a step ends an execution, modules may have trained on different
    numbers of its batches, all of them counted or none: go on from weights saved before.

    Raises:
        NotImplementedError: When it is entered, if the Keras backend is not TensorFlow.
        ValueError: When `fit` begins, if the model trains under a distribution strategy, if
            it is compiled with `steps_per_execution=1`, `run_eagerly` or `jit_compile`, or
            if something couples its modules: `global_clipnorm`, a loss scale, accumulated
            or averaged weights, penalties of weights, shared layers, objectives that wait
            for a signal or compare passes over the whole model, a `compute_loss` of one's
            own. In the first step, if a `tf.function` that it calls reads the optimizer's
            `iterations`, or if anything but the optimizer sets them.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="code"),
    ...                          keras.layers.Dense(8), keras.layers.Dense(1)])
    >>> model = e2e.modularize(base, ["code"], training_mode="local")
    >>> model.compile("adam", "mse", steps_per_execution=8)
    >>> with e2e.ModuleParallel():
    ...     history = model.fit(np.ones((64, 8)), np.ones((64, 1)), batch_size=4, verbose=0)
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._judged: list[Any] = []
        self._measured = 0  # how many of the latest executions were to measure

    def __enter__(self) -> "ModuleParallel":
        if keras.config.backend() != "tensorflow":
            raise NotImplementedError(
                "ModuleParallel: the Keras backend is "
                f"{keras.config.backend()!r}, and TensorFlow alone runs what does not "
                "depend on each other at the same time. Set KERAS_BACKEND=tensorflow "
                "before importing keras, or fit without it."
            )
        _open.parallels.append(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        _open.parallels.remove(self)

    def _say(self, message: str) -> None:
        """Warns of something, once."""
        if message not in self._said:
            self._said.add(message)
            warn_user(message)

    def _judges(self, state: Any) -> bool:
        """Whether it is the first time that this asks for a model with this state."""
        if any(state is each for each in self._judged):
            return False
        self._judged.append(state)
        return True


_open = _Open()


def refuse_coupled(model: Any) -> None:
    """Raises ValueError where a `ModuleParallel` is open and cannot be for this model.

    Args:
        model: The modular model, compiled, whose `fit` begins.
    """
    if not _open.parallels:
        return
    reason, fix = _unfit_settings(model) or (None, "")
    state = model._modular
    if reason is None and state.modules:
        reason = why_together(model)
        if reason is None and not _trains_as_one(model):
            reason = why_one_apply(model)
        fix = "Fit without ModuleParallel" + _fix_of_optimizer(model)
    if reason is not None:
        raise ValueError(
            f"{model.name!r}: its modules cannot train at the same time (ModuleParallel), "
            f"as {reason}. {fix}."
        )


def _unfit_settings(model: Any) -> tuple[str, str] | None:
    """A setting of `compile` that does not fit, and what to do; None for none."""
    if model.distribute_strategy.num_replicas_in_sync > 1:
        kind = type(model.distribute_strategy).__name__
        return (
            f"it trains under a {kind}, which has the devices already",
            "Make and compile the model outside of the strategy's scope",
        )
    if model.run_eagerly:
        return (
            "it is compiled with run_eagerly=True, and so runs one operation at a time",
            "Compile it with run_eagerly=False",
        )
    if model.jit_compile:
        return (
            f"it is compiled with jit_compile={model.jit_compile!r}, and XLA runs one "
            "operation at a time",
            "Compile it with jit_compile=False",
        )
    if model.steps_per_execution < 2:
        return (
            f"it is compiled with steps_per_execution={model.steps_per_execution}, and so "
            "one batch is under way",
            "Compile it with steps_per_execution=8, or more for more than four modules",
        )
    return None


def _fix_of_optimizer(model: Any) -> str:
    """What else to do where it is the optimizer that couples modules."""
    optimizer = model.optimizer
    if why_not_apart(optimizer) is None:
        return ""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return ", or compute in float32 or mixed_bfloat16, which need no loss scale"
    if isinstance(optimizer, ModuleOptimizers) or optimizer.gradient_accumulation_steps:
        return ""
    return (
        ", or give each module an optimizer of its own: "
        f"ModuleOptimizers({type(optimizer).__name__}(...))"
    )


def _trains_as_one(model: Any) -> bool:
    """Whether it is for the mode alone that there is one loss for all modules."""
    state = model._modular
    return state.mode.name == "sequential" or not state.flow().stopping


def batches_at_once(model: Any) -> int | None:
    """How many batches the next execution takes at once; None for one after another.

    Args:
        model: The modular model, whose training is under way.
    """
    state = model._modular
    if not _open.parallels or not state.modules:
        return None
    parallel = _open.parallels[-1]
    if state.steps.requested:
        parallel._measured += 1
        if parallel._measured == _MEASURED:
            parallel._say(
                f"{model.name!r}: {_MEASURED} executions in a row measured diagnostics, "
                "whose steps are taken one after another. For ModuleParallel, give the "
                "callback that measures an update_freq of several times "
                f"{model.steps_per_execution}, the steps_per_execution."
            )
        return None
    parallel._measured = 0
    reason = why_one_apply(model)
    if reason is not None:
        parallel._say(
            f"{model.name!r}: in mode '{state.mode}' the steps are taken one after "
            f"another, in spite of ModuleParallel: {reason}."
        )
        return None
    batches = model.steps_per_execution
    _warn_of_slow_pipe(parallel, model, batches)
    return batches


def several_at_once(
    model: Any, batches: int, plain: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """A train function that takes several batches at once.

    Args:
        model: The modular model, with the optimizer built.
        batches: Integer, how many batches are under way at once.
        plain: The train function that takes one batch after another.
    """
    # The only backend on which a `ModuleParallel` can be entered.
    from keras_e2e.trainers.tensorflow.module_parallel import pipelined

    return pipelined(model, batches, plain)


def _warn_of_slow_pipe(parallel: ModuleParallel, model: Any, batches: int) -> None:
    """Warns, once, where nothing can be won."""
    state = model._modular
    if state.graph is None or not parallel._judges(state):
        return
    costs = _costs(state.graph)
    speed = expected_speed(list(costs.values()), batches, _threads())
    if speed < _WORTH:
        total = sum(costs.values())
        shares = {name: f"{cost / total:.0%}" for name, cost in costs.items()}
        parallel._say(
            f"{model.name!r}: ModuleParallel is expected to train {speed:.2f} times as "
            f"fast as without, by the multiplications of the modules ({shares}) and "
            f"{_threads()} threads. Put the boundaries where they divide the work evenly: "
            f"modularize(model, {len(costs) - 1}, balance='time')."
        )


def _costs(running: Any) -> dict[str, float]:
    """The multiplications of each module for one example, by its end; heads left out."""
    graph = Graph(running)
    ends = graph.ends()
    costs = dict.fromkeys([*graph.boundaries(), OUTPUT], 0.0)
    for call, cost in zip(graph.calls, graph_costs(graph.calls, "time"), strict=True):
        for end in ends.get(id(call.outputs[0]), set()) if call.outputs else set():
            costs[end] += cost / len(ends[id(call.outputs[0])])
    costs[graph.model.output_names[0]] = costs.pop(OUTPUT)
    return costs


def _threads() -> int:
    """How many operations can run at the same time."""
    import tensorflow as tf

    given = tf.config.threading.get_inter_op_parallelism_threads()
    return given or os.cpu_count() or 1


def expected_speed(costs: Sequence[float], batches: int, workers: int | None) -> float:
    """How many times as fast as one after another modules train at the same time.

    One execution takes the time of its first batch through all modules, and then that of
    the slowest module for each batch more; and never less than all work shared evenly.

    Args:
        costs: List of what a batch costs each module.
        batches: Integer, the batches of an execution.
        workers: Integer, how many modules can run at the same time; None for any number.
    """
    total = sum(costs)
    pipe = total + (batches - 1) * max(costs)
    return batches * total / max(pipe, batches * total / (workers or len(costs)))
