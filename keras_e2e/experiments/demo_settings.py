"""The settings of the demo; its command reads them before Keras is imported."""

from typing import NamedTuple


class Settings(NamedTuple):
    """What the demo runs; the fields are the command's flags.

    Attributes:
        data: String, the images: "digits" or "fashion_mnist".
        k: Integers, the sizes of the tuples.
        epochs: Integer, the epochs of each run.
        tuples: Integer, the number of training tuples.
        batch_size: Integer, the tuples in a batch.
        learning_rate: Float, the learning rate of Adam.
        update_freq: Integer, the steps from one measurement to the next.
        seed: Integer seed for the split, the weights and the batches.
        jit: Boolean, whether to compile the steps with XLA.
        output_dir: String, the folder for logs, figure and numbers.
    """

    data: str = "digits"
    k: tuple[int, ...] = (1, 2, 3, 4)
    epochs: int = 6
    tuples: int = 30000
    batch_size: int = 128
    learning_rate: float = 1e-3
    update_freq: int = 50
    seed: int = 3
    jit: bool = False
    output_dir: str = "demo_output"
