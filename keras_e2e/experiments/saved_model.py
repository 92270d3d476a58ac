"""Loads the model that a command is given, and says what to do where that fails."""

import os
import warnings
from typing import Any

from keras_e2e.experiments.command import CommandError, Word
from keras_e2e.experiments.terminal import shortened

# What Keras says if a model was compiled and saved, and never trained: its optimizer has no
# state yet.
NO_STATE = "(?s).*Skipping variable loading for optimizer"


def word(example: str) -> Word:
    """The model, as the word that a command takes.

    Args:
        example: String, a command line that gives one.
    """
    return Word("model", f"Give the file that model.save wrote, as in {example}.")


def check_path(path: str) -> str:
    """The path of a model; Keras is not imported for it.

    Raises:
        CommandError: If nothing is there.
    """
    if not os.path.exists(path):
        raise CommandError(f"there is no {path!r}. Give the file that model.save wrote.")
    return path


def load(path: str, *, compile: bool, instead: str) -> Any:
    """Loads a model, without running code that the file holds.

    Args:
        path: Path of the file.
        compile: Boolean, whether to compile it as it was.
        instead: String, a call that does the same with a model in Python.

    Returns:
        The model.

    Raises:
        CommandError: If it cannot be loaded.
    """
    import keras

    _register()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_STATE)
            return keras.saving.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:  # of Keras, of h5py, of the user's own classes
        raise CommandError(
            f"{path} cannot be loaded: {shortened(error)} Give what model.save wrote. "
            "Classes of your own and Lambda layers are code, which a command does not run: "
            f"load such a model in Python and call {instead}."
        ) from error


def _register() -> None:
    """Registers with Keras what a modular model may be saved with.

    `import keras_e2e` does so, but not in the process of the command, which is to be quick.
    """
    from keras_e2e import objectives, rewards  # noqa: F401
    from keras_e2e.models import ensembles, modularize  # noqa: F401
    from keras_e2e.models.ensembles import ensemble  # noqa: F401
    from keras_e2e.optimizers import module_optimizers  # noqa: F401
