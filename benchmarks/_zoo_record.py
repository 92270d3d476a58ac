"""Trains the zoo of `verdicts.py` and keeps what was measured, one file for each run."""

import json
import os
import pathlib
from typing import Any

import keras
import numpy as np
from _zoo import Data, Setting
from _zoo_faults import FAULTS, Planted, planted
from _zoo_settings import SETTINGS

import keras_e2e as e2e
from keras_e2e.callbacks import ModuleDiagnostics

EXPENSIVE_UPDATE_FREQ = 50
# Where the loss on held-out examples is taken, twice as far as verdicts are checked.
HEALTHY_STEPS = (100, 200, 300, 600, 1000, 2000)
FAULT_STEPS = (1000,)


class HeldOut(keras.callbacks.Callback):
    """The loss on held-out examples after so many steps; ends the run after the last."""

    def __init__(self, data: Data, setting: Setting, at: tuple[int, ...]):
        super().__init__()
        self.data, self.at = data, at
        self.loss = None if setting.loss is None else keras.losses.get(setting.loss)
        self.losses: dict[int, float] = {}
        self.taken = 0

    def on_train_begin(self, logs=None):
        self.losses[0] = self.measured()

    def on_train_batch_end(self, batch, logs=None):
        self.taken += 1
        if self.taken in self.at:
            self.losses[self.taken] = self.measured()
        self.model.stop_training = self.taken >= self.at[-1]

    def measured(self) -> float:
        """The loss; by hand, for `evaluate` would end the metrics of the epoch."""
        x, y = self.data.x_held_out, self.data.y_held_out
        found = self.model.predict(x, 512, verbose=0)
        if self.loss is None:  # an autoencoder
            return float(np.mean((found - x.reshape(len(x), -1)) ** 2))
        y = y.reshape(-1, 1) if found.ndim == 2 and found.shape[1] == 1 else y
        return float(np.mean(keras.ops.convert_to_numpy(self.loss(y, found))))


class Reused:
    """One traced model for all seeds of a run that differ in weights and data alone."""

    def __init__(self) -> None:
        self.models: dict[Any, tuple[keras.Model, list]] = {}

    def model(self, key: Any, run: Planted) -> keras.Model:
        """The modular model of a run, compiled, with its weights and a fresh optimizer."""
        model = e2e.modularize(run.base, run.boundaries)
        if key in self.models:
            traced, fresh = self.models[key]
            traced.set_weights(model.get_weights())
            for variable, value in zip(traced.optimizer.variables, fresh, strict=True):
                variable.assign(value)
            return traced
        model.compile(run.optimizer, run.setting.loss)
        model.training_mode = run.mode
        model.optimizer.build(model.trainable_variables)
        if key is not None:
            fresh = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
            self.models[key] = model, fresh
        return model


def healthy(name: str, seed: int) -> Planted:
    """A healthy setting in the form of a planted fault."""
    setting = SETTINGS[name]
    cuts = dict.fromkeys(setting.cuts)
    optimizer = setting.optimizer()
    return Planted(
        setting.network(), setting, setting.data(seed), None, cuts, "end_to_end", optimizer
    )


def settings_of(kind: str, name: str, seed: int) -> str:
    """The name of the setting that a run is made from."""
    if kind == "healthy":
        return name
    settings = FAULTS[name].settings
    return settings[seed % len(settings)]


def record(
    kind: str, name: str, seed: int, folder: pathlib.Path, update_freq: int, reused: Reused
) -> None:
    """Trains one run, unless it is there already, and writes its file.

    Args:
        kind: String, `"healthy"` or `"fault"`.
        name: String, the name of the setting or of the fault.
        seed: Integer.
        folder: Where the file goes.
        update_freq: Integer, the steps from one measurement to the next.
        reused: What keeps the traced models.
    """
    path = folder / f"{kind} {name} {seed}.json"
    if path.exists():
        return
    setting = settings_of(kind, name, seed)
    keras.config.set_dtype_policy(SETTINGS[setting].policy)
    keras.utils.set_random_seed(seed)
    run = healthy(name, seed) if kind == "healthy" else planted(name, seed)
    once = kind == "fault" and FAULTS[name].rebuilt
    model = reused.model(None if once else (kind, name, setting), run)
    keras.utils.set_random_seed(seed)
    watch = ModuleDiagnostics(
        update_freq,
        "default" if run.mode == "end_to_end" else "full",
        EXPENSIVE_UPDATE_FREQ,
    )
    steps = HEALTHY_STEPS if kind == "healthy" else FAULT_STEPS
    test = HeldOut(run.data, run.setting, steps)
    x, y = run.data.x, run.data.y
    model.fit(x, y, run.setting.batch, steps[-1], verbose=0, callbacks=[watch, test])
    found = {
        "kind": kind,
        "name": name,
        "setting": setting,
        "module": run.module,
        "unseen": SETTINGS[setting].unseen,
        "accumulated": getattr(run.optimizer, "gradient_accumulation_steps", None) or 1,
        "steps": watch.steps,
        "history": watch.history,
        "held_out": test.losses,
    }
    with open(f"{path}.writing", "w") as file:
        json.dump(found, file)
    os.replace(f"{path}.writing", path)
