"""Switches a module that is starved to local training, and back when it has learned."""

import bisect
import json
import os
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.diagnostics import Verdict
from keras_e2e.diagnostics.verdicts import READINGS, UNMOVED, fallen, resting
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.local_losses import missing


class Decision(NamedTuple):
    """A switch, or why there was none where one might expect it.

    Attributes:
        step: the optimizer's iteration.
        mode: the mode from then on.
        reason: with the numbers.
    """

    step: int
    mode: str
    reason: str


class AutoMode(ModuleDiagnostics):
    """Trains end to end, and locally what gets no usable signal.

    It starts end to end. When a module is judged starved (the gradient is noise and the
    loss is where it began: `diagnostics.judge`) and has an objective, the boundary behind
    it stops the gradient, and the objective trains it, and what lies before it as far
    back as the next such boundary. When its local loss has come to rest and the task loss
    has begun to move, everything is trained end to end again. Each return makes it wait
    twice as long before the next, so that it cannot flap.

    A module that is stalled (the loss fell, and rests far above zero) is switched only if
    its objective has labels of its own, for these tell that there is something to learn,
    and only once: it may be that nothing more can be learned. It goes back when the local
    losses rest, whatever the task loss does.

    Where the task loss does not move although the local losses of starved modules have come
    to rest, it stays local. Whether a local objective without intermediate labels leads to
    what the task needs, it cannot know: it uses what it is given.

    Put it before `ModuleTensorBoard`, which then marks the switches, and give both the
    same quantities.

    Args:
        every: steps from one reading to the next.
        warmup: steps after the start, and after each switch, before a verdict counts. By
            default 200: on k-tuple parity that separates what will learn from what will
            not (BUILD_NOTES.md).
        patience: steps in which a local loss must not have fallen by more than `rest`,
            before it counts as at rest.
        rest: the share by which it may fall in that time.
        quantities: as in `ModuleDiagnostics`; `gradient_snr` and `loss` must be among them.
        backup: a JSON file that holds its state from epoch to epoch; with it training goes
            on where it was after a crash, beside `keras.callbacks.BackupAndRestore`.

    Attributes:
        decisions: the `Decision`s so far.

    Raises:
        ValueError: an argument out of range; a quantity is missing. When training starts:
            no boundary has an objective. At the first reading: `y` lacks the labels of all
            of them. (A module whose labels alone are missing is left alone, with a
            warning.)

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> auto = e2e.callbacks.AutoMode()
    >>> history = model.fit(np.ones((8, 2)), np.ones(8), verbose=0, callbacks=[auto])
    >>> auto.decisions
    []
    """

    def __init__(
        self,
        every: int = 10,
        *,
        warmup: int = 200,
        patience: int = 200,
        rest: float = 0.05,
        quantities: Any = "default",
        backup: str | os.PathLike[str] | None = None,
    ):
        super().__init__(every, quantities)
        for name, value in (("warmup", warmup), ("patience", patience)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"AutoMode({name}={value!r}): expected a number of steps.")
        if not 0 < rest < 1:
            raise ValueError(f"AutoMode(rest={rest!r}): expected a share, 0 < rest < 1.")
        names = [quantity.name for quantity in self.quantities]
        missing = sorted({"gradient_snr", "loss"} - set(names))
        if missing:
            raise ValueError(f"AutoMode needs the quantities {missing}; it has {names}.")
        self.warmup, self.patience, self.rest = warmup, patience, rest
        self.backup = None if backup is None else os.fspath(backup)
        self.decisions: list[Decision] = []
        self._since = 0
        self._returns = 0
        self._unread = True
        self._able: set[str] = set()
        self._tried: set[str] = set()
        self._level = float("nan")

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if not any(module.objective for module in self.model.modules):
            raise ValueError(
                f"AutoMode: no boundary of {self.model.name!r} has an objective, so there "
                "is nothing to switch to. Give one to the module that may be starved."
            )
        self.decisions, self._since, self._returns = [], self._iterations(), 0
        self._tried, self._level = set(), float("nan")
        self.model.training_mode = "end_to_end"
        self._unread = True

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if self._unread:  # by now other callbacks have restored what they restore
            self._unread = False
            self._since = self._iterations()
            self._restore()

    def on_epoch_end(self, epoch, logs=None):
        if self.backup is not None:
            self._save()

    def on_train_end(self, logs=None):
        if self.backup is not None and os.path.exists(self.backup):
            os.remove(self.backup)

    def take(self, step, readings):
        """Decides by what has been read so far."""
        if len(self.steps) == 1:
            self._able = self._find_able()
        if step - self._since < self.warmup:
            return
        stopped = set(self.model.training_mode.stop)
        needy = {n: v for n, v in self._needy(self.verdicts()).items() if n not in stopped}
        if needy:
            starved = any(
                verdict.no_signal_reason == "starved" for verdict in needy.values()
            )
            if not stopped:
                # What the task loss must fall below; anything, where it had moved before.
                task = list(self.history["loss"].values())[-1]
                self._level = float(np.median(task[-READINGS:])) if starved else np.inf
            self._tried |= {n for n, v in needy.items() if v.no_signal_reason == "stalled"}
            words = "; ".join(f"{name}: {needy[name].message}" for name in sorted(needy))
            self._switch(
                step, TrainingMode("mixed", stop=sorted(stopped | {*needy})), words
            )
        elif stopped and self._learned(sorted(stopped)):
            self._returns += 1
            reason = f"The local losses of {sorted(stopped)} have come to rest"
            reason += " and the task loss moves." if np.isfinite(self._level) else "."
            self._switch(step, TrainingMode("end_to_end"), reason)

    def _find_able(self) -> set[str]:
        """The modules that could be trained by their objective, with the labels given."""
        x_y_weight = keras.utils.unpack_x_y_sample_weight(self.model._modular.steps.specs)
        y, _, given, _ = self.model._split(x_y_weight[1], None)
        have = [module for module in self.model.modules if module.objective]
        lack = {m.name for m in have if missing(m, y, given.get(m.name))}
        able = {module.name for module in have} - lack
        if not able:
            raise ValueError(
                f"AutoMode: the objectives of {sorted(lack)} need labels or targets that y "
                "does not hold, so there is nothing to switch to. Give y={..., NAME: "
                "labels}, or objectives without labels."
            )
        if lack:
            logging.warning(
                "AutoMode: the objectives of %s need labels or targets that y does not "
                "hold; these modules stay end to end, starved or not.",
                sorted(lack),
            )
        return able

    def _needy(self, verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
        """Those that are starved, and the stalled whose own labels may help, each once."""
        labelled = {
            module.name
            for module in self.model.modules
            if module.objective and module.objective.requires_labels
        }
        may = {"starved": self._able, "stalled": labelled & self._able - self._tried}
        return {
            name: verdict
            for name, verdict in verdicts.items()
            # Dead units and lost signals are causes that its own objective may cure.
            if verdict.state in ("starved", "stalled", "dormant", "vanishing")
            and name in may.get(verdict.no_signal_reason, ())
        }

    def _learned(self, stopped: list[str]) -> bool:
        """Whether the local losses are at rest, and the task loss has begun to move."""
        span = self.patience * 2**self._returns // self.every
        since = bisect.bisect_right(self.steps, self._since)
        losses = self.history["loss"]
        if not all(resting(losses[name][since:], span, self.rest) for name in stopped):
            return False
        task = list(losses.values())[-1]
        return bool(fallen(np.median(task[-READINGS:]), self._level, UNMOVED))

    def _switch(self, step: int, mode: TrainingMode, reason: str) -> None:
        self.model.training_mode = mode
        self._since = step
        self.decisions.append(Decision(step, str(mode), reason))
        logging.info("AutoMode, step %d: mode '%s'. %s", step, mode, reason)

    # What must outlast a crash

    def _save(self) -> None:
        state = {
            "iterations": self._iterations(),
            "mode": self.model.training_mode.get_config(),
            "since": self._since,
            "returns": self._returns,
            "tried": sorted(self._tried),
            "level": self._level,
            "decisions": self.decisions,
            "history": self.history,
            "steps": self.steps,
            "modes": [mode.get_config() for mode in self.modes],
        }
        waiting = f"{self.backup}.writing"
        with open(waiting, "w") as file:
            json.dump(state, file)
        os.replace(waiting, self.backup)  # type: ignore[arg-type]

    def _restore(self) -> None:
        """Takes up the state that belongs to the weights, if there is one."""
        if self.backup is None or not os.path.exists(self.backup):
            return
        with open(self.backup) as file:
            try:
                state = json.load(file)
            except ValueError as error:
                raise ValueError(
                    f"AutoMode(backup={self.backup!r}): the file is damaged ({error}). "
                    "Delete it to begin anew."
                ) from error
        if state["iterations"] != self._iterations():
            return  # of another run, or the weights were not restored
        self.model.training_mode = TrainingMode.get(state["mode"])
        self._since, self._returns = state["since"], state["returns"]
        self._tried, self._level = set(state["tried"]), state["level"]
        self.decisions = [Decision(*decision) for decision in state["decisions"]]
        self.history, self.steps = state["history"], state["steps"]
        self.modes = [TrainingMode.get(mode) for mode in state["modes"]]
