"""Writes logs as `ModuleTensorBoard` does, with planted faults, without training."""

import math

import numpy as np

from keras_e2e import diagnostics
from keras_e2e.diagnostics import states
from keras_e2e.modules import training_mode
from keras_e2e.modules.training_mode import TRAINED_BY
from keras_e2e.visualization.tensorboard import tags as layout
from keras_e2e.visualization.tensorboard.event_writer import Writer

QUANTITIES = diagnostics.default_quantities()
BANDS = {q.name: q.healthy for q in QUANTITIES if q.healthy}
TASK, OWN = TRAINED_BY.index("task"), TRAINED_BY.index("own objective")


class Descriptions(dict):
    """Anything may be written: a tag that nobody described has an empty description."""

    def __missing__(self, tag):
        return ""


class Log:
    """One run; `folder` is that of the events, so that it can have any name."""

    def __init__(self, folder, modules):
        self.modules = list(modules)
        described = layout.descriptions(self.modules, QUANTITIES)
        self.writer = Writer(str(folder), Descriptions(described))

    def put(self, step, group, values):
        """One value for each module; None leaves a module out."""
        scalars = [
            (layout.module_tag(group, i, module), float(value))
            for i, (module, value) in enumerate(zip(self.modules, values, strict=True))
            if value is not None
        ]
        self.writer.scalars(step, scalars)

    def mode(self, step, name):
        self.writer.scalars(step, [(layout.MODE, training_mode.NAMES.index(name))])

    def switch(self, step, name, trained_by):
        self.mode(step, name)
        self.put(step, "trained_by", trained_by)

    def band(self, step, quantity):
        tags = layout.band_tags(quantity)
        self.writer.scalars(step, zip(tags, BANDS[quantity], strict=True))

    def judge(self, step, names, confidence=0.9):
        self.put(step, "verdict", [states.CODES[name] for name in names])
        self.put(step, "confidence", [confidence] * len(names))

    def close(self):
        self.writer.close()


def parity(folder, modules, *, starved=(), steps=1200, every=10, local_until=0, seed=0):
    """A run as of a classifier behind encoders; those in `starved` get only noise.

    With `local_until` these are trained on objectives of their own up to that step.
    """
    noise = np.random.default_rng(seed)
    log = Log(folder, modules)
    fed = np.array([module not in starved for module in modules])
    log.put(0, "parameters", [12_416 * (i + 1) for i in range(len(modules))])
    own = [OWN if not f else TASK for f in fed]
    task = [TASK] * len(modules)
    log.switch(1, "local" if local_until else "end_to_end", own if local_until else task)
    for step in range(1, steps + 1, every):
        if local_until and local_until <= step < local_until + every:
            log.mode(step, "local")
            log.switch(step, "end_to_end", task)
        log.mode(step, "local" if step < local_until else "end_to_end")
        learning = fed | (step < local_until) | bool(local_until)
        done = np.where(learning, 1 - math.exp(-step / 250), 0.0)
        spread = noise.lognormal(0, 0.35, (4, len(modules)))
        log.put(step, "loss", 0.693 - 0.66 * done + 0.01 * spread[0])
        snr = np.where(learning, 0.05 + 1.2 * math.exp(-step / 600), 0.0015) * spread[1]
        log.put(step, "gradient_snr", np.where(~learning & (spread[1] < 0.9), 0.0, snr))
        log.put(step, "grad_rms", np.where(learning, 3e-3, 4e-5) * spread[2])
        log.put(step, "update_ratio", np.where(learning, 2e-3, 8e-4) * spread[3])
        for quantity in ("gradient_snr", "update_ratio"):
            log.band(step, quantity)
        if step % 100 == 1:
            early = step < 150
            log.judge(
                step,
                ["unclear" if early else "healthy" if ok else "starved" for ok in learning],
            )
    return log
