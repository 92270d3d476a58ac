"""Switches a module that is starved to local training, and back when it has learned."""

import json
import os
from collections.abc import Iterable

from absl import logging

from keras_e2e.callbacks.auto_mode_policy import AutoModePolicy, Decision, History
from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics, QuantitySet
from keras_e2e.callbacks.places import lacking
from keras_e2e.diagnostics import Quantity
from keras_e2e.modules.training_mode import TrainingMode

# The file in `backup_dir`.
BACKUP = "auto_mode.json"


class AutoMode(ModuleDiagnostics):
    """Trains end to end, and trains locally those modules that get no usable signal.

    Training starts end to end. Every `update_freq` steps the modules are measured and
    judged (`diagnostics.judge`). A module is *starved* if the task loss is that of a
    constant prediction and nothing lets it fall. If it has an objective, its boundary then
    stops the gradient, and the objective trains it, together with the modules before it
    back to the next such boundary. Once its local loss has plateaued and the task loss has
    begun to fall, everything is trained end to end again. After each return the next one
    takes
    twice as long, so that the mode cannot switch back and forth.

    A module is *stalled* if the loss has fallen, but plateaued with much of it left. It is
    switched only if its objective has labels of its own, which show that there is something
    to learn, and only once: there may be nothing more to learn. It goes back when the local
    losses have plateaued, whatever the task loss does.

    Where the task loss does not fall although the local losses of starved modules have
    plateaued, training stays local. Whether a local objective without labels leads to
    what the task needs, the callback cannot know: it uses what it is given.

    Put it before `ModuleTensorBoard`, which then marks the switches. It does not go beside
    `TrainingModeScheduler`: both set the mode, and each undoes what the other did.

    Args:
        update_freq: Integer, the number of steps from one measurement to the next.
            Defaults to 10.
        warmup: Integer, the number of steps after the start, and after each switch,
            before a verdict counts. Defaults to 200: in the runs of this package on the
            parity of k digits, modules that learn have then begun to.
        patience: Integer, the number of steps after which a local loss that has not
            fallen by more than `min_delta` counts as plateaued. Defaults to 200.
        min_delta: Float between 0 and 1, the share of its value by which a local loss
            must fall within `patience` to count as falling. Defaults to 0.05.
        quantities: As in `ModuleDiagnostics`; `loss` and `skill` must be among
            them: `[*e2e.diagnostics.default_quantities(), Mine()]` adds one of your own.
            Defaults to `"default"`.
        backup_dir: String or path of a folder where the state of this callback is kept
            from epoch to epoch, so that training resumes after a crash as it was. Use it
            with `keras.callbacks.BackupAndRestore`, which may have the same folder. The
            state is deleted when training ends. Defaults to `None`, no backup.

    Attributes:
        decisions: List of the switches so far. Each has the `step`, the `mode` from then
            on, and the `reason`.
        policy: The `AutoModePolicy` that decides.

    Raises:
        ValueError: If an argument is out of range, or a quantity is missing. When
            training starts: If no boundary has an objective, or the backup cannot be
            restored. At the first measurement: If `y` lacks the labels of all
            objectives. (A module whose labels alone are missing stays end to end, with
            a warning.)
        OSError: When training starts: If `backup_dir` cannot be made.

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
        update_freq: int = 10,
        *,
        warmup: int = 200,
        patience: int = 200,
        min_delta: float = 0.05,
        quantities: QuantitySet | Iterable[Quantity] = "default",
        backup_dir: str | os.PathLike[str] | None = None,
    ):
        super().__init__(update_freq, quantities)
        names = [quantity.name for quantity in self.quantities]
        absent = sorted({"loss", "skill"} - set(names))
        if absent:
            raise ValueError(
                f"AutoMode needs the quantities {absent}; quantities has {names}. Add "
                "keras_e2e.diagnostics.ModuleLoss() and Skill()."
            )
        self.policy = AutoModePolicy(self.update_freq, warmup, patience, min_delta)
        self.backup_dir = None if backup_dir is None else self._path(backup_dir=backup_dir)
        self.decisions: list[Decision] = []
        self._start = 0
        self._resumes = True
        self._trainable_locally: set[str] | None = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if not any(module.objective for module in self.model.modules):
            raise ValueError(
                f"AutoMode: no boundary of {self.model.name!r} has an objective, so there "
                "is nothing to switch to. Give one to the boundary of the module that may "
                "get no signal."
            )
        if self.backup_dir is not None:
            _make(self.backup_dir)
        self.decisions, self._trainable_locally = [], None
        self.model.training_mode = "end_to_end"
        self._resumes = True

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if self._resumes:  # by now other callbacks have restored what they restore
            self._resumes = False
            self._start = self._iterations()
            self._restore()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self.backup_dir is not None:
            self._save(self.backup_dir)

    def on_train_end(self, logs=None):
        if self.backup_dir is not None:
            _delete(self.backup_dir)

    def on_measurement(self, step, measurements):
        """Asks the policy, and switches the mode if it says so."""
        if self._trainable_locally is None:
            self._trainable_locally = self._find_trainable_locally()
        decision = self.policy.decide(self._history(self._trainable_locally))
        if decision.mode != self.model.training_mode:
            self.model.training_mode = decision.mode
            self.decisions.append(decision)
            logging.info(
                "AutoMode, step %d: mode '%s'. %s", step, decision.mode, decision.reason
            )

    def _history(self, trainable_locally: set[str]) -> History:
        return History(
            mode=self.model.training_mode,
            steps=self.steps,
            losses=self.history["loss"],
            verdicts=self.verdicts(),
            trainable_locally=trainable_locally,
            labeled={
                module.name
                for module in self.model.modules
                if module.objective and module.objective.requires_labels
            },
            start=self._start,
            decisions=self.decisions,
        )

    def _find_trainable_locally(self) -> set[str]:
        """The modules that could be trained by their objective, with the labels given."""
        lack = lacking(self.model)
        found = {m.name for m in self.model.modules if m.objective} - {*lack}
        if not found:
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
        return found

    # What must outlast a crash

    def _save(self, folder: str) -> None:
        state = {
            "iterations": self._iterations(),
            "mode": self.model.training_mode.get_config(),
            "start": self._start,
            "decisions": [decision.get_config() for decision in self.decisions],
            "history": self.history,
            "steps": self.steps,
            "modes": [mode.get_config() for mode in self.modes],
        }
        os.makedirs(folder, exist_ok=True)  # BackupAndRestore may have deleted it
        path = os.path.join(folder, BACKUP)
        with open(f"{path}.writing", "w") as file:
            json.dump(state, file)
        os.replace(f"{path}.writing", path)

    def _restore(self) -> None:
        """Takes up the state that belongs to the weights, if there is one."""
        path = os.path.join(self.backup_dir or "", BACKUP)
        if self.backup_dir is None or not os.path.exists(path):
            return
        try:
            with open(path) as file:
                state = json.load(file)
            if state["iterations"] != self._iterations():
                return  # of another run, or the weights were not restored
            decisions = [Decision.from_config(config) for config in state["decisions"]]
            modes = [TrainingMode.get(mode) for mode in state["modes"]]
            mode = TrainingMode.get(state["mode"])
            kept = state["history"], state["steps"], state["start"]
            if _columns(state["history"]) != _columns(self.history):
                raise ValueError("it was saved for other modules or quantities")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"AutoMode(backup_dir={self.backup_dir!r}): the state in {path!r} cannot "
                f"be restored ({error!r}). Delete the file to begin anew."
            ) from error
        self.model.training_mode = mode
        self.decisions, self.modes = decisions, modes
        self.history, self.steps, self._start = kept


def _columns(history: dict[str, dict[str, list[float]]]) -> dict[str, list[str]]:
    """The modules of each quantity."""
    return {column: [*by_module] for column, by_module in history.items()}


def _make(folder: str) -> None:
    """Makes a folder, or says that the argument has to be another one."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"AutoMode: backup_dir={folder!r} cannot be made ({error}). Give a folder, "
            "or a path where one can be made."
        ) from error


def _delete(folder: str) -> None:
    """Deletes the state in a folder, and the folder if there is nothing else in it."""
    path = os.path.join(folder, BACKUP)
    if os.path.exists(path):
        os.remove(path)
        if not os.listdir(folder):
            os.rmdir(folder)
