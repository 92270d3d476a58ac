"""Private names of Keras that strategies and training on several workers take.

Keras 3.15 cannot `fit` under a `MultiWorkerMirroredStrategy` of several workers. To learn
the shapes of the first batch it averages it over the workers, which TensorFlow refuses; and
it averages the logs along an axis that numbers do not have.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import tree
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter


def several_workers(strategy: Any) -> bool:
    """Whether a strategy trains in step with other processes."""
    from keras.src.backend.tensorflow import trainer

    return trainer._collective_all_reduce_multi_worker(strategy)


def made_under(variable: Any, strategy: Any) -> bool:
    """Whether a variable of Keras was made in the scope of a strategy, if it has a value.

    Stands for `Variable._value`: `value` is a tensor where there is none yet.
    """
    value = variable._value
    return value is None or strategy.extended.variable_created_in_scope(value)


def let_workers_fit(
    check: Callable[[Any, Mapping[str, Any]], None],
    begin: Callable[[Any, Mapping[str, Any]], keras.callbacks.Callback],
    predict: Callable[[Any, Mapping[str, Any]], None],
) -> None:
    """Mends what keeps Keras from training on several workers, for this process.

    Stands for `TensorFlowTrainer.fit` and `predict`, `_maybe_symbolic_build` and
    `reduce_per_replica`.
    Where there is one worker they do as before. Called again, it does nothing.

    Args:
        check: Function of a model and of what is known of its data that is called on all
            workers before they take the first batch of them; it raises an error if they
            must not.
        begin: Function of a model and of the arguments of `fit` that is called on all
            workers before anything else; it raises an error, or returns a callback that
            comes after those of the user.
        predict: The same for `predict`; it returns nothing.
    """
    from keras.src.backend.tensorflow import trainer

    stock_reduce = trainer.reduce_per_replica
    if getattr(stock_reduce, "for_several_workers", False):
        return
    stock_build = trainer.TensorFlowTrainer._maybe_symbolic_build

    def build(model, iterator=None, data_batch=None):
        if iterator is not None and several_workers(model.distribute_strategy):
            if not getattr(iterator, "is_agreed_on", False):  # not validated with before
                refuse_several_steps(model)
                if getattr(model, "_eval_epoch_iterator", None) is not iterator:
                    _refuse_empty_parts(model, iterator.data_adapter)
                check(model, _sizes(iterator))
                iterator.is_agreed_on = True
            data_batch, iterator = _own_batch(model.distribute_strategy, iterator), None
        return stock_build(model, iterator=iterator, data_batch=data_batch)

    def reduce(values, strategy, reduction):
        if reduction in ("auto", "mean") and several_workers(strategy):
            return tree.map_structure(lambda v: strategy.reduce("MEAN", v, None), values)
        return stock_reduce(values, strategy, reduction)

    reduce.for_several_workers = True  # type: ignore[attr-defined]
    trainer.TensorFlowTrainer._maybe_symbolic_build = build
    for name, first in (("fit", begin), ("predict", predict)):
        stock = getattr(trainer.TensorFlowTrainer, name)
        setattr(trainer.TensorFlowTrainer, name, _begun(stock, first))
    trainer.reduce_per_replica = reduce


def _begun(method: Callable, begin: Callable) -> Callable:
    """`fit` or `predict`, which of several workers begins on all of them or on none."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def run(model, *args, **kwargs):
        if not several_workers(model.distribute_strategy):
            return method(model, *args, **kwargs)
        given = signature.bind(model, *args, **kwargs)
        given.apply_defaults()
        ours = begin(model, {k: v for k, v in given.arguments.items() if k != "self"})
        callbacks = given.arguments["callbacks"]
        if ours is not None and isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(ours)
        elif ours is not None:
            given.arguments["callbacks"] = [*tree.flatten(callbacks or []), ours]
        return method(*given.args, **given.kwargs)

    return run


def _sizes(iterator: Any) -> dict[str, Any]:
    """What is known of the batches of an epoch."""
    data, sizes = iterator.data_adapter, {"the number of batches": iterator.num_batches}
    if data.batch_size:
        sizes["the size of a batch"] = data.batch_size
        sizes["the size of the last batch"] = data.partial_batch_size
    return sizes


def refuse_several_steps(model: Any) -> None:
    """Raises ValueError for several steps at once, before several replicas begin them.

    Args:
        model: A model under a strategy of several replicas, compiled.
    """
    if model.steps_per_execution > 1:
        raise ValueError(
            f"{model.name!r}: steps_per_execution={model.steps_per_execution}, and "
            "TensorFlow's loop over the batches of several devices or workers fails. "
            "Compile with steps_per_execution=1."
        )


def _refuse_empty_parts(model: Any, data: Any) -> None:
    """Raises ValueError where a replica would get no example, and all losses be NaN."""
    replicas, batch_size = model.distribute_strategy.num_replicas_in_sync, data.batch_size
    if not batch_size:  # not arrays, whose sizes are not known
        return
    last = data.partial_batch_size or batch_size
    if min(batch_size, last) < replicas:
        raise ValueError(
            f"{model.name!r}: batch_size={batch_size}, of which the last batch has {last}, "
            f"for {replicas} replicas on all workers: some would have no example, and the "
            "mean over none is NaN. Choose batch_size, and leave out examples, so that no "
            f"batch has fewer than {replicas}."
        )


def _own_batch(strategy: Any, iterator: Any) -> Any:
    """The first batch of this worker's first replica.

    A generator gives each batch once: of what would be fetched, and prefetched, here
    nothing would be trained on. Keras has put its first batches aside already.
    """
    if isinstance(iterator.data_adapter, GeneratorDataAdapter):
        replicas = strategy.num_replicas_in_sync
        return tree.map_structure(
            lambda v: None if v is None else v[: -(-v.shape[0] // replicas)],
            iterator.data_adapter._first_batches[0],
        )
    for _, _, batches in iterator:
        batch = next(batches)
        return tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], batch
        )
    return None
