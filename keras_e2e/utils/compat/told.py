"""Private names of TensorFlow by which the workers of a cluster tell each other texts.

TensorFlow's coordination service keeps them in the memory of the chief. Unlike a collective
operation, which waits for ever for a worker that does not take part, its barrier waits for
so long and no longer, and ends with an error where a worker has died.
"""

import tensorflow as tf
from tensorflow.python.eager import context


def exchanged(key: str, number: int, count: int, text: str, seconds: float) -> list[str]:
    """What all workers tell, in the order of their numbers.

    Args:
        key: String, what they tell it by, once.
        number: Integer, that of this worker.
        count: Integer, how many workers there are.
        text: String, what this one tells.
        seconds: How long to wait for the others.

    Raises:
        TimeoutError: If a worker has not told it by then; the text names the task.
        tf.errors.InternalError, tf.errors.UnavailableError: If a worker has died.
    """
    service = context.context()
    service.set_config_key_value(_of(key, number), text)
    try:
        service.wait_at_barrier(key, int(1000 * seconds))
    except tf.errors.DeadlineExceededError as error:
        raise TimeoutError(error.message) from None
    return [service.get_config_key_value(_of(key, each)) for each in range(count)]


def forget(key: str, number: int) -> None:
    """Forgets what this worker told, once all have it."""
    context.context().delete_config_key_value(_of(key, number))


def _of(key: str, number: int) -> str:
    return f"{key}/{number}"
