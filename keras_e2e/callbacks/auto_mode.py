"""Switches a module that is starved to local training, and back when it has learned."""

from collections.abc import Iterable

from absl import logging

from keras_e2e.callbacks.auto_mode_policy import AutoModePolicy, Decision, History
from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.callbacks.places import lacking
from keras_e2e.callbacks.quantity_sets import QuantitySet
from keras_e2e.diagnostics import Quantity
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.saved_with_weights import State

# A switch is in force from the execution after the next on: the numbers are read while the
# next one runs. Where they are read sooner (an epoch ends, weights are saved), it waits, so
# that neither epochs nor backups move a switch.
DELAY = 2


class AutoMode(ModuleDiagnostics):
    """Trains end to end, and trains locally those modules that get no usable signal.

    Training starts end to end. Every `update_freq` steps the modules are measured and
    judged (`diagnostics.judge`). A module is *starved* if the task loss is that of a
    constant prediction and nothing lets it fall. If it has an objective, its boundary then
    stops the gradient, and the objective trains it, together with the modules before it
    back to the next such boundary. Once its local loss has plateaued and the task loss has
    begun to fall, everything is trained end to end again. After each return the next one
    takes twice as long, so that the mode cannot switch back and forth.

    A module is *stalled* if the loss has fallen, but rests with much of it left. It is
    switched only if its objective has labels of its own, which show that there is something
    to learn, and only once: there may be nothing more to learn. It goes back when the local
    losses have plateaued, whatever the task loss does.

    Of a task loss that is a surrogate (`rewards.PPO`) a starved module is known by
    predictions that have been the same for all examples for 500 steps; it goes back as a
    stalled one does.

    Where the task loss does not fall although the local losses of starved modules have
    plateaued, training stays local. Whether a local objective without labels leads to
    what the task needs, the callback cannot know: it uses what it is given.

    Put it before `ModuleTensorBoard`, which then marks the switches. It does not go beside
    `TrainingModeScheduler`: both set the mode, and each undoes what the other did.

    While `fit` runs, its state is saved with the model's weights, in the same file: mode,
    decisions, measurements, and what the quantities keep from step to step. With
    `keras.callbacks.BackupAndRestore` before or after it in the list, a training that was
    killed goes on as if it had not been, given the same data. Keras itself keeps neither
    the order of shuffled examples nor the place within an epoch: with an integer
    `save_freq` the epoch begins anew, with the later weights. AutoMode warns of it; let the
    data begin at `model.optimizer.iterations`, and no example is seen twice. What cannot be
    restored (other modules or quantities, a backup without this callback) is named in a
    warning, and AutoMode begins anew. A model that is loaded outside of `fit` ignores the
    state.

    Args:
        update_freq: Integer, the number of steps from one measurement to the next.
            Defaults to 10.
        warmup: Integer, the number of steps after the start, and after each switch,
            before a verdict counts. Defaults to 100: a verdict takes ten measurements.
        patience: Integer, the number of steps after which a local loss that has not
            fallen by more than `min_delta` counts as plateaued. Defaults to 200.
        min_delta: Float between 0 and 1, the share of its value by which a local loss
            must fall within `patience` to count as falling. Defaults to 0.05.
        quantities: As in `ModuleDiagnostics`; `loss` and `skill` must be among
            them: `[*e2e.diagnostics.default_quantities(), Mine()]` adds one of your own.
            Defaults to `"default"`.

    Attributes:
        decisions: List of the switches so far. Each has the `step`, the `mode` from then
            on, and the `reason`.
        policy: The `AutoModePolicy` that decides.

    Raises:
        ValueError: If an argument is out of range, or a quantity is missing. When
            training starts: If no boundary has an objective. At the first measurement:
            If `y` lacks the labels of all objectives. (A module whose labels alone are
            missing stays end to end, with a warning.)

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
        warmup: int = 100,
        patience: int = 200,
        min_delta: float = 0.05,
        quantities: QuantitySet | Iterable[Quantity] = "default",
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
        self.decisions: list[Decision] = []
        self._start: int | None = None
        self._trainable_locally: set[str] | None = None
        # The switches decided on that are not in force yet, and from which execution on.
        self._waiting: list[tuple[int, TrainingMode]] = []
        self._epoch_began = 0
        self._restored: dict | None = None

    def _prepare(self):
        super()._prepare()
        if not any(module.objective for module in self.model.modules):
            raise ValueError(
                f"AutoMode: no boundary of {self.model.name!r} has an objective, so there "
                "is nothing to switch to. Give one to the boundary of the module that may "
                "get no signal."
            )
        self.decisions, self._waiting = [], []
        self._start = self._trainable_locally = self._restored = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.model._log_losses_of(TrainingMode("local"))  # it may come at any time
        if self._restored is None:  # else the weights were loaded by now
            self.model.training_mode = "end_to_end"

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch_began = self._iterations()
        if self._start is None:
            self._start = self._epoch_began  # by now other callbacks restored what they do
        if self._restored is not None:
            _compare(self._restored, epoch)
        self._restored = None

    def on_train_batch_begin(self, batch, logs=None):
        while self._waiting and self._waiting[0][0] <= self._executions + 1:
            self.model.training_mode = self._waiting.pop(0)[1]
        super().on_train_batch_begin(batch, logs)

    def on_measurement(self, step, measurements):
        """Asks the policy, and switches the mode if it says so."""
        if self._trainable_locally is None:
            self._trainable_locally = self._find_trainable_locally()
        decision = self.policy.decide(self._history(self._trainable_locally))
        if decision.mode == self._decided_mode():
            return
        # Refused here, with what is measured in sight, if it does not fit the model.
        mode = self.model.check_training_mode(decision.mode)
        self._waiting.append((self._measured_execution + DELAY, mode))
        self.decisions.append(decision)
        logging.info(
            "AutoMode, step %d: mode '%s'. %s", step, decision.mode, decision.reason
        )

    def _decided_mode(self) -> TrainingMode:
        """The mode of the latest decision, which may not be in force yet."""
        return self._waiting[-1][1] if self._waiting else self.model.training_mode

    def _history(self, trainable_locally: set[str]) -> History:
        return History(
            mode=self._decided_mode(),
            steps=self.steps,
            losses=self.history["loss"],
            verdicts=self.verdicts(),
            trainable_locally=trainable_locally,
            labeled={
                module.name
                for module in self.model.modules
                if module.objective and module.objective.requires_labels
            },
            start=self._start or 0,
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

    def get_state(self) -> State:
        """As in `ModuleDiagnostics`, with the decisions."""
        state = super().get_state()
        config = {
            "start": self._start,
            "decisions": [decision.get_config() for decision in self.decisions],
            "waiting": [
                [execution - self._executions, mode.get_config()]
                for execution, mode in self._waiting
            ],
            "epoch": self._epoch,
            "steps_of_epoch": self._iterations() - self._epoch_began,
        }
        return state._replace(config={**state.config, "auto_mode": config})

    def set_state(self, state: State) -> None:
        """As in `ModuleDiagnostics`, with the decisions."""
        config = state.config["auto_mode"]
        decisions = [Decision.from_config(each) for each in config["decisions"]]
        waiting = [
            (int(execution), self.model.check_training_mode(mode))
            for execution, mode in config["waiting"]
        ]
        kept = {key: int(config[key]) for key in ("start", "epoch", "steps_of_epoch")}
        super().set_state(state)
        self.decisions, self._start = decisions, kept["start"]
        self._waiting = [(self._executions + ahead, mode) for ahead, mode in waiting]
        self._restored = kept


def _compare(restored: dict[str, int], epoch: int) -> None:
    """Warns if the weights are not those from which an epoch begins."""
    if epoch != restored["epoch"] + 1:
        logging.warning(
            "AutoMode: epoch %d begins with the weights after %d steps of epoch %d. "
            "BackupAndRestore keeps no place within an epoch: unless the data begin at "
            "model.optimizer.iterations, steps are repeated.",
            *(epoch, restored["steps_of_epoch"], restored["epoch"]),
        )
