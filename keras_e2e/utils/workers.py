"""Which of several workers this process is, and what they tell each other."""

import json
from collections import Counter
from typing import Any

from keras_e2e.utils.compat.multi_worker import several_workers

# Seconds after which a worker that should have told something is taken for one that never
# will. Long, for the chief may be writing a large model to a slow disk.
PATIENCE = 600

# How often each thing was told, by all workers alike.
_turns: Counter[str] = Counter()


def is_chief(model: Any) -> bool:
    """Whether this process is the one that writes what all workers would write alike.

    Args:
        model: A Keras model; what counts is the strategy that it was made under.
    """
    return _number(_resolver(model)) == 0


def on_several_workers(model: Any) -> bool:
    """Whether a model trains in step with those of other processes."""
    strategy = getattr(model, "distribute_strategy", None)  # on JAX there is none
    return strategy is not None and several_workers(strategy)


def told_by_all(
    model: Any, what: str, told: Any = None, shown: str | None = None, times: int = 1
) -> list[Any]:
    """What each of several workers tells, the chief's first.

    Each waits for the others on the host; no device waits.

    Args:
        model: A Keras model that trains on several workers.
        what: String, what it is about. All workers call this for it equally often.
        told: What this worker tells: what JSON can hold. Defaults to `None`.
        shown: String, what it is about on this worker, for errors. Defaults to `what`.
        times: Integer, how many times `PATIENCE` to wait. Defaults to 1.

    Raises:
        RuntimeError: If a worker does not tell it in that time.
        tf.errors.InternalError, tf.errors.UnavailableError: If one has died.
    """
    from keras_e2e.utils.compat import told as service  # TensorFlow's alone

    resolver, turn, seconds = _resolver(model), _turns[what], times * PATIENCE
    _turns[what] += 1
    number, text = _number(resolver), json.dumps(told)
    try:
        texts = service.exchanged(_key(what, turn), number, _count(resolver), text, seconds)
    except TimeoutError as error:
        raise RuntimeError(
            f"{model.name!r}: worker {number} has come to {shown or what}, and not all "
            f"others have within {seconds} seconds. Start the same program on all "
            "workers, with the same callbacks, and set modes on all of them alike. "
            f"TensorFlow says who: {error}"
        ) from None
    if turn:
        service.forget(_key(what, turn - 1), number)  # all have come to this turn
    return [json.loads(text) for text in texts]


def _key(what: str, turn: int) -> str:
    return f"keras_e2e/{what}/{turn}"


def _resolver(model: Any) -> Any:
    return getattr(getattr(model, "distribute_strategy", None), "cluster_resolver", None)


def _number(resolver: Any) -> int:
    """The number of this worker; 0 for the chief, and where there are not several."""
    if resolver is None or resolver.task_type != "worker":
        return 0
    return resolver.task_id + ("chief" in resolver.cluster_spec().jobs)


def _count(resolver: Any) -> int:
    """How many workers there are, the chief among them."""
    cluster = resolver.cluster_spec().as_dict()
    return len(cluster.get("chief", ())) + len(cluster.get("worker", ()))
