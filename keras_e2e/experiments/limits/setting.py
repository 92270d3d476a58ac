"""What identifies one run of a sweep."""

import dataclasses
import hashlib
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run: a task, a way of training, a seed, a budget.

    Attributes:
        task: name of the task (`running.TASKS`).
        k: its size: images in a tuple, bits, choices.
        data: name of the images.
        regime: name of the way of training (`regimes.PLANS`).
        labels: of how many training images the class is known; None for all.
        seed: of the splits, the weights and the batches.
        steps: training steps, all stages together.
        batch_size: examples in a batch.
        learning_rate: that of Adam.
        examples: training examples.

    Example:

    >>> from keras_e2e.experiments.limits.setting import Setting
    >>> setting = Setting("parity", 4, "end_to_end", seed=1)
    >>> Setting.from_text(setting.text()) == setting, len(setting.key())
    (True, 16)
    """

    task: str
    k: int
    regime: str
    data: str = "digits"
    labels: int | None = None
    seed: int = 0
    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 1e-3
    examples: int = 30000

    def text(self) -> str:
        """As JSON, the same text for the same setting."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def key(self) -> str:
        """A short key that tells it from all others."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    @classmethod
    def from_text(cls, text: str) -> "Setting":
        """The setting of `text()`."""
        found: dict[str, Any] = json.loads(text)
        return cls(**found)
