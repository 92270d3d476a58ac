"""Several hosts train one modular model; here the hosts are processes.

On each host, with its own number (the chief is 0) and the addresses of all:

    python examples/multi_worker.py --index=0 --workers=10.0.0.1:2222,10.0.0.2:2222
    python examples/multi_worker.py --index=1 --workers=10.0.0.1:2222,10.0.0.2:2222

To try it on one machine, in two terminals:

    python examples/multi_worker.py --index=0 --workers=localhost:2222,localhost:2223
    python examples/multi_worker.py --index=1 --workers=localhost:2222,localhost:2223

Each reads all the data and takes its part of each batch. What to see: both print the same
numbers, but for rounding those that one process alone prints (and for the last batch of an
epoch, where the parts differ in size: Keras weights parts alike). The chief alone writes
for TensorBoard; `AutoMode` would switch both at the same step. Takes half a minute.

If one dies, the others cannot go on: within seconds TensorFlow ends their `fit` with an
UnavailableError, and they end, too. Whoever starts them must start all of them again, on
each host by itself; each then goes on from the backup of the chief, in a folder that all
hosts share. So, on each host, with its own number:

    until python examples/multi_worker.py --index=0 --backup=/shared/backup \
        --workers=10.0.0.1:2222,10.0.0.2:2222
    do sleep 5; done

Try it on one machine with `--epochs=300`, and `kill -9` one of the two while they train.
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging

FLAGS = flags.FLAGS


def define_flags():
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("index", 0, "The number of this worker.", lower_bound=0)
    flags.DEFINE_list("workers", ["localhost:2222"], "The addresses of all workers.")
    flags.DEFINE_integer("epochs", 20, "How many epochs.", lower_bound=1)
    flags.DEFINE_string("backup", None, "A folder that all hosts share, to go on from.")
    flags.DEFINE_string("logs", "multi_worker_logs", "The folder that TensorBoard reads.")


def network():
    """A stock model, as any other."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, activation="relu", name="first"),
            layers.Dense(64, activation="relu", name="second"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def main(_):
    """Trains as one of the workers."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of each collective
    # The strategy reads it, and must be made before anything else of TensorFlow.
    place = {"type": "worker", "index": FLAGS.index}
    cluster = {"worker": FLAGS.workers}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": place})
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    import keras

    import keras_e2e as e2e
    from keras_e2e.experiments.tasks import load_digits

    keras.utils.set_random_seed(0)  # the same weights and the same order everywhere
    train, test = load_digits()
    with strategy.scope():
        model = e2e.modularize(network(), ["first", "second"], training_mode="local")
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    watch = e2e.callbacks.ModuleTensorBoard(FLAGS.logs)
    callbacks = [watch]
    if FLAGS.backup:
        # The same folder on all of them: the chief writes it, all read it.
        callbacks.append(keras.callbacks.BackupAndRestore(FLAGS.backup))
    options = {"batch_size": 128, "epochs": FLAGS.epochs, "callbacks": callbacks}
    model.fit(*train, verbose=2, **options)
    _, accuracy = model.evaluate(*test, verbose=0)
    print(f"worker {FLAGS.index} of {len(FLAGS.workers)}: test accuracy {accuracy:.3f}")
    for name, verdict in watch.verdicts().items():
        print(f"  {name}: {verdict.state}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
