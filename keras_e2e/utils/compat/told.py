"""Private names of TensorFlow by which the workers of a cluster tell each other texts.

TensorFlow's coordination service keeps them in the memory of the chief. Unlike a collective
operation, which waits for ever for a worker that does not take part, it can be asked to
wait for so long and no longer.
"""

import time
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.python.eager import context

# Seconds after which a worker that waits asks whether the others are still there.
LOOK_EVERY = 2.0


def tell(key: str, text: str) -> None:
    """Lets other workers ask for a text."""
    context.context().set_config_key_value(key, text)


def ask(key: str, seconds: float, jobs: Mapping[str, int]) -> str | None:
    """The text that a worker told; None if it did not within so many seconds.

    Args:
        key: String, what it was told by.
        seconds: How long to wait.
        jobs: Dict with the number of workers of each job.

    Raises:
        tf.errors.UnavailableError: If a worker has died meanwhile, as in a step.
    """
    service, end = context.context(), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            wait = int(1000 * min(left, LOOK_EVERY)) + 1  # 0 would be for ever
            return service.get_config_key_value(key, wait)
        except (tf.errors.DeadlineExceededError, tf.errors.NotFoundError):
            states = service.get_task_states([*jobs.items()])
            if any(state is not None for state in states):
                what = f"waiting for {key!r}: a worker has ended ({states})"
                raise tf.errors.UnavailableError(None, None, what) from None
    return None


def forget(key: str) -> None:
    """Forgets a text that all have asked for."""
    context.context().delete_config_key_value(key)
