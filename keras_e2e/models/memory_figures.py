"""The figures of an estimate, off the trace of a modular model."""

from typing import Any

import keras

from keras_e2e.models.memory_estimate import MemoryEstimate, ModuleMemory, SplitMemory
from keras_e2e.models.memory_program import Program
from keras_e2e.models.memory_trace import trace
from keras_e2e.utils.graphs import count_parameters, strategy_scope


def refuse_backend(what: str) -> None:
    """Raises RuntimeError on a backend whose steps are not traced.

    Args:
        what: String, what was asked for.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{what}: the Keras backend is {keras.backend.backend()}, and memory is "
            "estimated for tensorflow only. Set KERAS_BACKEND=tensorflow."
        )


def refuse_strategy(what: str, model: Any) -> None:
    """Raises ValueError for a model whose variables lie on several devices.

    Args:
        what: String, what was asked for.
        model: The model.
    """
    import tensorflow as tf

    with strategy_scope(model):
        if not tf.distribute.has_strategy():
            return
        strategy = type(tf.distribute.get_strategy()).__name__
    raise ValueError(
        f"{what}: {model.name!r} was made under {strategy}, and memory is estimated for "
        "one device. Estimate the model made without it, at the batch size of a replica."
    )


def estimate(
    model: Any, splits: list[Any], inputs: Any, batch_size: int, waiting: bool
) -> MemoryEstimate:
    """The estimate of a model and of its splits into modules.

    Args:
        model: A modular model, whose boundaries do not count here.
        splits: List of modular models of the same layers, whose boundaries do.
        inputs: The inputs of each, as `tf.TensorSpec`s with known shapes.
        batch_size: Integer, the number of examples in the inputs.
        waiting: Boolean, whether an end-to-end step has all gradients before it applies
            one.
    """
    whole, _ = trace(model, inputs, split=False)
    return MemoryEstimate(
        model.name,
        batch_size,
        count_parameters(model.weights),
        sum(_kept(whole)),
        whole.run(waiting),
        tuple(_split(split, inputs, waiting) for split in splits),
        tuple([*_notes(whole), *_remat(model)]),
    )


def _split(model: Any, inputs: Any, waiting: bool) -> SplitMemory:
    program, names = trace(model, inputs, split=True)
    by_name = {module.name: module for module in model.modules}
    last = model.modules[-1]
    found = [*(by_name[name] for name in names), last]
    kept = _kept(program)
    modules = tuple(
        ModuleMemory(
            module.name,
            module.parameters,
            kept[place],
            kept[place] / (sum(kept) or 1),
            program.alone(place),
        )
        for place, module in enumerate(found)
    )
    return SplitMemory(
        modules,
        local=program.run(waiting=False),
        local_one_apply=program.run(waiting=True),
        checkpointing=None if _recomputed(model) else program.checkpointing(waiting),
    )


def _kept(program: Program) -> list[int]:
    """Bytes of the activations that each module's backward pass needs."""
    return [sum(program.sizes[name] for name in names) for names in program.kept()]


def gradients_wait(model: Any) -> bool:
    """Whether an end-to-end step of a model has all gradients before it applies one."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:  # `compile` scales the loss for this policy
        return model.dtype_policy.name == "mixed_float16"
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return scaled or getattr(optimizer, "global_clipnorm", None) is not None


def _notes(program: Program) -> list[str]:
    left_out = program.kept()[0] & program.unknown
    if not left_out:
        return []
    return [
        f"Left out: {len(left_out)} tensors whose size depends on the data, so the model "
        "takes more than this."
    ]


def _recomputed(model: Any) -> list[str]:
    """The modules whose activations are made a second time for their gradients."""
    return list(getattr(model, "remat", None) or ())


def _remat(model: Any) -> list[str]:
    if not (names := _recomputed(model)):
        return []
    return [f"Recomputed for their gradients (remat), in all figures: {', '.join(names)}."]
