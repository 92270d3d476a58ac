"""Training on several workers, for models that are not modular too."""

import keras

from keras_e2e.trainers.agreement import (
    agree_on_fit,
    agree_on_predict,
    refuse_differences,
)
from keras_e2e.utils.compat.chief_files import let_chief_write
from keras_e2e.utils.compat.multi_worker import let_workers_fit


def enable_multi_worker() -> None:
    """Lets stock Keras models train under a `MultiWorkerMirroredStrategy`.

    In Keras 3.15 `fit` fails there before the first step. Modular models need no call. It
    holds for the process; where there is one worker nothing changes, and a second call does
    nothing.

    - Workers that differ are refused by name, on all of them, when `fit`, `evaluate` or
      `predict` begins (versions of packages, layers, values of the weights, the optimizer,
      arguments, how many batches there are; of modular models also modules, objectives and
      the training mode) and between epochs (learning rates, `stop_training`). They would
      wait for each other for ever, or their weights would part.
    - Keras's `ModelCheckpoint`, `CSVLogger` and `TensorBoard` write on the chief alone, and
      so does `BackupAndRestore`, whose backup all workers read: give all of them one
      `backup_dir`, on a disk that all hosts share.
    - Weights are the same on all workers; the moving statistics of BatchNormalization are
      each worker's own, as under all strategies of Keras, so save those of the chief.
    - With `steps_per_execution` above 1 TensorFlow fails: it is refused.

    Raises:
        RuntimeError: If the Keras backend is not TensorFlow, whose strategy it is.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.enable_multi_worker()

    Then make the strategy (it reads `TF_CONFIG`), and the model in its scope:
    `examples/multi_worker.py`.
    """
    if keras.config.backend() != "tensorflow":
        raise RuntimeError(
            "enable_multi_worker() is for tf.distribute, and the Keras backend is "
            f"{keras.config.backend()!r}. Set KERAS_BACKEND=tensorflow before importing "
            "keras, or use keras.distribution."
        )
    let_workers_train()


def let_workers_train() -> None:
    """As `enable_multi_worker`, where the backend is known."""
    let_workers_fit(refuse_differences, agree_on_fit, agree_on_predict)
    let_chief_write()
