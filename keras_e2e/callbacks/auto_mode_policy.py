"""The rules of `AutoMode`: from what was measured to the training mode, without a model."""

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_e2e.diagnostics import Verdict, states
from keras_e2e.diagnostics.plateau import MEASUREMENTS, UNMOVED, fallen, plateaued
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils.validation import check_integer

# Dead units and lost signals are causes that a module's own objective may cure; these are
# not.
INCURABLE = ("frozen", "exploding", "conflicting")


class Decision(NamedTuple):
    """The training mode that a policy asks for after a measurement.

    Attributes:
        step: Integer, the optimizer's iteration at the measurement.
        mode: The `TrainingMode` from then on.
        reason: String, the reason in words, with the numbers.
        causes: Dict from the name of each module that this decision begins to train
            locally to why it gets no usable signal, `"starved"` or `"stalled"`.
        task_loss: Float, what the task loss must fall below before the modules go back
            to end-to-end training: the task loss at the decision, or infinity where the
            task loss had fallen before (modules that are stalled). NaN for a decision
            that trains no module locally.
    """

    step: int
    mode: TrainingMode
    reason: str
    causes: Mapping[str, str] = {}
    task_loss: float = math.nan

    def get_config(self) -> dict[str, Any]:
        """A dict that can be written as JSON, for `from_config`."""
        return {**self._asdict(), "mode": self.mode.get_config(), "causes": {**self.causes}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Decision":
        """The decision of a dict that `get_config` returned."""
        return cls(**{**config, "mode": TrainingMode.get(config["mode"])})


@dataclass(frozen=True)
class History:
    """What was measured and decided so far, and what can be done for each module.

    Attributes:
        mode: The `TrainingMode` in force.
        steps: The optimizer's iteration of each measurement, at least one.
        losses: Dict from module to its loss at each measurement, NaN where there was
            none. Modules in order; the loss of the last one is the task loss.
        verdicts: Dict from module to its latest `Verdict`.
        trainable_locally: The modules that have an objective and the labels it requires.
        labeled: Those of them whose objective has labels of its own.
        start: Integer, the optimizer's iteration at which training began.
        decisions: The switches so far: each a `Decision` with another mode than before.
    """

    mode: TrainingMode
    steps: Sequence[int]
    losses: Mapping[str, Sequence[float]]
    verdicts: Mapping[str, Verdict]
    trainable_locally: Collection[str]
    labeled: Collection[str] = ()
    start: int = 0
    decisions: Sequence[Decision] = field(default_factory=list)

    @property
    def switched_at(self) -> int:
        """The step of the latest switch, or the start."""
        return self.decisions[-1].step if self.decisions else self.start

    @property
    def returns(self) -> int:
        """How often all modules went back to end-to-end training."""
        return sum(decision.mode.name == "end_to_end" for decision in self.decisions)

    @property
    def tried(self) -> set[str]:
        """The modules that were trained locally because they were stalled."""
        return {
            module
            for decision in self.decisions
            for module, cause in decision.causes.items()
            if cause == "stalled"
        }

    @property
    def required_task_loss(self) -> float:
        """`Decision.task_loss` of the first switch since the latest return, else NaN."""
        required = math.nan
        for decision in reversed(self.decisions):
            if decision.mode.name == "end_to_end":
                break
            required = decision.task_loss
        return required

    @property
    def task_loss(self) -> float:
        """The median of the latest task losses."""
        return float(np.median([*self.losses.values()][-1][-MEASUREMENTS:]))

    def keep(self, reason: str) -> Decision:
        """The decision to stay in the mode in force."""
        return Decision(self.steps[-1], self.mode, reason)


@dataclass(frozen=True)
class AutoModePolicy:
    """Decides when modules are trained locally, and when end to end again.

    `AutoMode` says by which rules. A policy holds no state: the same history always
    leads to the same decision.

    Args:
        update_freq: Integer, steps from one measurement to the next. Defaults to 10.
        warmup: Integer, steps after the start, and after each switch, before a verdict
            counts. Defaults to 100.
        patience: Integer, steps after which a local loss that has not fallen counts as
            plateaued; twice as many after each return. Defaults to 200.
        min_delta: Float between 0 and 1, the share of its value by which a local loss
            must fall within `patience` to count as falling. Defaults to 0.05.

    Raises:
        ValueError: If an argument is out of range.

    Example: a module that gets nothing but noise.

    >>> from keras_e2e import TrainingMode
    >>> from keras_e2e.callbacks.auto_mode_policy import AutoModePolicy, History
    >>> from keras_e2e.diagnostics import judge
    >>> losses = {"encoder": [float("nan")] * 30, "out": [0.69] * 30}
    >>> skills = {"encoder": [float("nan")] * 30, "out": [0.0] * 30}
    >>> history = History(
    ...     mode=TrainingMode("end_to_end"),
    ...     steps=range(1, 301, 10),
    ...     losses=losses,
    ...     verdicts=judge({"loss": losses, "skill": skills}, range(1, 301, 10)),
    ...     trainable_locally={"encoder"},
    ... )
    >>> str(AutoModePolicy().decide(history).mode)
    'mixed (stop encoder)'
    """

    update_freq: int = 10
    warmup: int = 100
    patience: int = 200
    min_delta: float = 0.05

    def __post_init__(self) -> None:
        for name in ("update_freq", "warmup", "patience"):
            check_integer(f"AutoMode: {name}", getattr(self, name), 1)
        share = self.min_delta
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not number or not 0 < share < 1:
            raise ValueError(
                f"AutoMode: min_delta={share!r}: expected the share of a loss, a number "
                "between 0 and 1 such as 0.05."
            )

    def decide(self, history: History) -> Decision:
        """The mode to be in force from the latest measurement on.

        Args:
            history: A `History`.

        Returns:
            A `Decision`; its mode is the one in force where nothing is to change.
        """
        left = self.warmup - (history.steps[-1] - history.switched_at)
        if left > 0:
            return history.keep(f"Warmup: no verdict counts for {left} more steps.")
        stopped = sorted(history.mode.stop)
        no_signal = {m: v for m, v in needing_help(history).items() if m not in stopped}
        if no_signal:
            return _train_locally(history, no_signal)
        if not stopped:
            return history.keep("No module is starved or stalled that can be helped.")
        return self._end_to_end_again(history, stopped)

    def _end_to_end_again(self, history: History, stopped: list[str]) -> Decision:
        """Back, if the local losses have plateaued and the task loss begins to fall."""
        span = self.patience * 2**history.returns // self.update_freq
        since = bisect.bisect_right(history.steps, history.switched_at)
        falling = [
            module
            for module in stopped
            if not plateaued(history.losses[module][since:], span, self.min_delta)
        ]
        if falling:
            return history.keep(f"The local losses of {falling} have not plateaued.")
        required = history.required_task_loss
        if not fallen(history.task_loss, required, UNMOVED):
            return history.keep(
                f"The local losses of {stopped} have plateaued, but the task loss "
                f"({history.task_loss:.3g}) has not fallen below {required:.3g}."
            )
        reason = f"The local losses of {stopped} have plateaued"
        reason += " and the task loss falls." if math.isfinite(required) else "."
        return Decision(history.steps[-1], TrainingMode("end_to_end"), reason)


def needing_help(history: History) -> dict[str, Verdict]:
    """The modules without a usable signal that could be trained locally.

    They are the starved ones, and the stalled ones whose own labels show that
    there is something to learn, each once.
    """
    helped = {
        "starved": {*history.trainable_locally},
        "stalled": {*history.trainable_locally} & {*history.labeled} - history.tried,
    }
    return {
        module: verdict
        for module, verdict in history.verdicts.items()
        if verdict.state not in INCURABLE
        and module in helped.get(verdict.no_signal_reason, ())
    }


def _train_locally(history: History, no_signal: Mapping[str, Verdict]) -> Decision:
    causes = {module: verdict.no_signal_reason for module, verdict in no_signal.items()}
    # Where the task loss had fallen before, it need not fall again; a surrogate need never.
    surrogate = any(verdict.place.surrogate for verdict in no_signal.values())
    starved = "starved" in causes.values() and not surrogate
    stop = sorted({*history.mode.stop, *no_signal})
    said = [
        f"{name}: {states.summary(causes[name], math.nan, no_signal[name].numbers)}"
        for name in sorted(no_signal)
    ]
    return Decision(
        history.steps[-1],
        TrainingMode("mixed", stop=stop),
        "; ".join(said) + ".",
        causes,
        history.task_loss if starved else math.inf,
    )
