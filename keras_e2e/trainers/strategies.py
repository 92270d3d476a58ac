"""Which strategies of tf.distribute a modular model may be made under, and how."""

from typing import Any

from keras_e2e.utils.compat.multi_worker import made_under, refuse_several_steps


def refuse_strategy(model: Any) -> None:
    """Raises ValueError for a strategy that a model cannot train under.

    Args:
        model: A modular model, before its heads are made.
    """
    strategy = getattr(model, "distribute_strategy", None)  # on JAX there is none
    kind = type(strategy).__name__
    if kind.startswith("ParameterServerStrategy"):
        raise ValueError(
            f"{model.name!r} is made in the scope of a {kind}, for which Keras 3 has no "
            "training. Use tf.distribute.MultiWorkerMirroredStrategy for several hosts, or "
            "MirroredStrategy for the devices of one."
        )
    refuse_other_scope(model)


def refuse_other_scope(model: Any) -> None:
    """Raises ValueError if a weight was made in another scope than that of the strategy.

    Args:
        model: A modular model.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None:
        return
    optimizer = getattr(model, "optimizer", None)
    for variable in [*model.variables, *getattr(optimizer, "variables", ())]:
        if not made_under(variable, strategy):
            kind = type(strategy).__name__
            raise ValueError(
                f"{model.name!r} trains under {kind}, and {variable.path!r} was made "
                "outside of its scope. Make model, objectives and optimizer in one `with "
                "strategy.scope():`. A model that exists is made there anew by "
                "keras.models.clone_model(model), and takes set_weights(...)."
            )


def refuse_loop_over_replicas(model: Any) -> None:
    """Raises ValueError if `fit` would run several steps at once on several replicas.

    There stock Keras fails, too, in TensorFlow; `evaluate` and `predict` do not. A TPU runs
    such a loop by itself.

    Args:
        model: A modular model, before `fit` changes anything.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or not model.compiled or model.run_eagerly:
        return
    on_tpu = type(strategy).__name__.startswith("TPUStrategy")
    if strategy.num_replicas_in_sync > 1 and not on_tpu:
        refuse_several_steps(model)
