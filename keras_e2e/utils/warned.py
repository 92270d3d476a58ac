"""Warnings that name the line of the user's program."""

import os
import sys
import warnings
from types import FrameType

_PACKAGES = "keras_e2e", "keras", "tensorflow"


def warn_user(message: str) -> None:
    """Warns at the latest line that is neither of this package nor of Keras or TensorFlow.

    So Python shows the line that is to be changed, and repeats the warning for another one.

    Args:
        message: String, the text of a `UserWarning`.
    """
    loaded = [sys.modules[name] for name in _PACKAGES if name in sys.modules]
    inside = tuple(os.path.dirname(str(m.__file__)) + os.sep for m in loaded)
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
