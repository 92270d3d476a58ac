"""Which of several workers this process is."""

from typing import Any


def is_chief(model: Any) -> bool:
    """Whether this process is the one that writes what all workers would write alike.

    Args:
        model: A Keras model; what counts is the strategy that it was made under.
    """
    strategy = getattr(model, "distribute_strategy", None)
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or resolver.task_type != "worker":
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
