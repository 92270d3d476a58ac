"""What identifies one run of a sweep."""

import dataclasses
import hashlib
import json
import math
from typing import Any

from keras_e2e.experiments.limits import names
from keras_e2e.utils.validation import check_integer, did_you_mean

WINDOW = 100
"""Steps from one entry of the learning curve to the next, and between measurements."""

ROLLOUT = 1024
"""The same by reward: the environment steps of a rollout, one in each environment."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One run: a task, a way of training, a seed, a budget.

    Attributes:
        task: String, the name of the task (`names.TASKS`).
        k: Integer, the size of the task: images in a tuple, bits, choices.
        data: String, the name of the images.
        regime: String, the name of the way of training (`names.REGIMES`).
        labels: Integer, the number of training images whose class is known; None for all.
        seed: Integer seed for the splits, the weights and the batches.
        steps: Integer, the training steps of all stages together; by reward those in
            environments.
        batch_size: Integer, the examples in a batch.
        learning_rate: Float, the learning rate of Adam.
        examples: Integer, the number of training examples; by reward it has no meaning.

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

    def check(self) -> None:
        """Raises a ValueError if the setting cannot be run."""
        by_reward = self.task in names.BY_REWARD
        regimes = names.WITH_REWARDS if by_reward else names.WITH_TARGETS
        for name, value, known in (
            ("task", self.task, names.TASKS),
            ("regime", self.regime, regimes),
            ("data", self.data, names.DATASETS),
        ):
            if value not in known:
                raise ValueError(
                    f"{name}={value!r}: expected one of {', '.join(known)}."
                    f"{did_you_mean(value, known)}"
                )
        for name in ("k", "batch_size", "examples", "steps"):
            check_integer(name, getattr(self, name), 1)
        if self.task not in names.SIZED and self.k != 1:
            raise ValueError(f"k={self.k}: {self.task} has one size only, k=1.")
        if self.task not in names.WITH_DATA and self.data != Setting.data:
            raise ValueError(
                f"data={self.data!r}: {self.task} has images of its own; a choice of "
                f"them exists for {', '.join(names.WITH_DATA)}."
            )
        if self.labels is not None and self.task not in names.WITH_BUDGETS:
            raise ValueError(
                f"labels={self.labels}: a budget of labels exists for "
                f"{', '.join(names.WITH_BUDGETS)}; {self.task} takes all of them."
            )
        if self.labels is not None and self.regime in names.ON_IDEAL:
            raise ValueError(
                f"labels={self.labels}: {self.regime} trains on ideal activations of all "
                "examples, and so takes all labels. Leave out the one or the other."
            )
        self._check_steps()
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate={self.learning_rate}: expected a number above 0."
            )

    def _check_steps(self) -> None:
        window, stages = WINDOW, 2
        if self.task in names.BY_REWARD:
            window, stages = ROLLOUT, 3  # of those that pretrain
            if self.examples != Setting.examples:
                raise ValueError(
                    f"examples={self.examples}: {self.task} is learned in environments, "
                    "which have no number of examples; steps says how long. Leave it out."
                )
            if ROLLOUT % self.batch_size:
                raise ValueError(
                    f"batch_size={self.batch_size}: expected a divisor of {ROLLOUT}, the "
                    f"environment steps of a rollout, for {self.task}."
                )
        elif self.regime == names.CURRICULUM:
            stages = self.k
        if self.steps % window:
            raise ValueError(
                f"steps={self.steps}: expected a multiple of {window} for {self.task}."
            )
        if self.steps < stages * window:
            raise ValueError(
                f"steps={self.steps}: {self.regime} needs {stages * window} or more."
            )

    def text(self) -> str:
        """Returns the setting as JSON, the same text for the same setting."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def key(self) -> str:
        """A short key that no other setting has."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    @classmethod
    def from_text(cls, text: str) -> "Setting":
        """The setting of `text()`."""
        found: dict[str, Any] = json.loads(text)
        return cls(**found)
