"""A grid world with perception, memory and policy: what trains the perception?

MiniGrid's worlds as symbols. The model has three modules: perception (a small network for
each step), memory (a GRU) and the policy with its value. Each regime has the same number of
environment steps; they differ in what trains the perception: the reward alone, an objective
of its own with or without labels beside it or in its place, or nothing at all.

    python benchmarks/rewards_minigrid.py [--worlds=Empty-5x5,MemoryS7] [--seeds=5]
        [--regimes="end to end,labels"] [--env_steps=8192] [--minutes=60] [--table]
        [--figure=FILE]

Every finished run goes to the JSON file at once, and what is in there is not run again: the
first seed of everything comes first, then the second. `--table` only prints what is there.
"""

import gc
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _minigrid as grid
import _minigrid_report as reports
import _shared
import keras
import numpy as np
from absl import app, flags
from rich.console import Console

import keras_e2e as e2e

FLAGS = flags.FLAGS

PASSES, BATCH = 4, 512
LEARNING_RATE, CLIP_NORM, ENTROPY = 1e-3, 0.5, 0.01
EVALUATED = 100
UPDATE_FREQ = 16
"""Steps from one measurement to the next: an epoch has as many."""
SUCCESS = 0.0
"""A return above it is a goal that was reached in time."""

LOGS = {
    "curve": "episode_return",
    "entropy": "policy_entropy",
    "clipped": "policy_clip_fraction",
}
"""What is noted of each epoch, and its name in the logs of `fit`."""

# The perception by its own objective alone; the reward trains memory and policy.
OWN = e2e.TrainingMode("mixed", stop=["perception"])


class Phase(NamedTuple):
    """A part of a run.

    Attributes:
        share: of the environment steps.
        mode: the training mode; None leaves it to `AutoMode`.
        frozen: whether the perception is left as it is.
    """

    share: float
    mode: e2e.TrainingMode | str | None
    frozen: bool = False


class Regime(NamedTuple):
    """What trains the perception.

    Attributes:
        objective: makes the objective at its boundary, or None.
        phases: one after the other.
        color: in the figure.
        memory: makes the objective of the memory, or None.
    """

    objective: Callable[[], Any]
    phases: tuple[Phase, ...]
    color: str
    memory: Callable[[], Any] = lambda: None


def labels() -> e2e.objectives.LocalObjective:
    """What is in view, from labels that the world offers."""
    return e2e.objectives.IntermediateTarget(
        "binary_crossentropy", head="linear", units=grid.NUM_LABELS, per_position=True
    )


def following() -> e2e.objectives.LocalObjective:
    """The next observation."""
    return grid.Observation(ahead=1)


def cue() -> e2e.objectives.LocalObjective:
    """Which object the memory is to hold, of its outputs at each step."""
    return e2e.objectives.IntermediateTarget(
        head="linear", units=2, per_position=True, tensors=0
    )


REGIMES = {
    "end to end": Regime(grid.Observation, (Phase(1, "end_to_end"),), "#c0392b"),
    "untrained": Regime(
        grid.Observation, (Phase(1, "end_to_end", frozen=True),), "#7f8c8d"
    ),
    "reconstruction": Regime(grid.Observation, (Phase(1, OWN),), "#1e8449"),
    "next observation": Regime(following, (Phase(1, OWN),), "#2471a3"),
    "InfoNCE": Regime(e2e.objectives.InfoNCE, (Phase(1, OWN),), "#8e44ad"),
    "labels": Regime(labels, (Phase(1, OWN),), "#b7950b"),
    "labels and reward": Regime(labels, (Phase(1, "deep_supervision"),), "#d35400"),
    "reconstruction and reward": Regime(
        grid.Observation, (Phase(1, "deep_supervision"),), "#117864"
    ),
    "pre-trained": Regime(
        grid.Observation,
        (
            # The policy, which nothing trains yet, acts at random.
            Phase(0.1, "sequential:perception"),
            Phase(0.4, "end_to_end", frozen=True),
            Phase(0.5, "end_to_end"),
        ),
        "#1f618d",
    ),
    "memory: labels": Regime(
        lambda: None, (Phase(1, "deep_supervision"),), "#2e4053", memory=cue
    ),
    "AutoMode": Regime(grid.Observation, (Phase(1, None),), "#000000"),
}


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("seeds", 5, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_list("worlds", list(grid.WORLDS), "Which worlds.")
    flags.DEFINE_list("regimes", list(REGIMES), "Which regimes.")
    flags.DEFINE_float("minutes", None, "Begin no run after so many minutes.")
    flags.DEFINE_integer("env_steps", None, "Of each run, in place of the world's own.")
    flags.DEFINE_bool("table", False, "Run nothing, print what there is.")
    flags.DEFINE_string("figure", None, "Draw the curves into this file.")
    flags.DEFINE_string(
        "output", "benchmarks/results/rewards_minigrid.json", "The JSON file."
    )


def compiled(model: e2e.ModularModel) -> e2e.ModularModel:
    """Compiles a policy, with an optimizer that is new."""
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM),
        loss={"policy": e2e.rewards.PPO(entropy=ENTROPY), "value": "mse"},
        loss_weights={"policy": 1.0, "value": 0.5},
        weighted_metrics={
            "policy": [e2e.rewards.PolicyEntropy(), e2e.rewards.ClipFraction()]
        },
        jit_compile=False,  # for some 50 epochs it does not pay
    )
    return model


class Run:
    """One policy that is trained, and what is noted of it."""

    def __init__(self, world: grid.World, regime: Regime, seed: int):
        keras.utils.set_random_seed(seed)
        self.envs, self.seed = grid.environments(world), seed
        self.model = e2e.modularize(
            grid.policy(len(world.actions)),
            {"perception": regime.objective(), "memory": regime.memory()},
        )
        self.rollouts = e2e.rewards.Rollouts(
            self.envs,
            self.model,
            steps=grid.STEPS,
            passes=PASSES,
            batch_size=BATCH,
            states={"state": "state"},
            sequence_length=world.sequence_length,
            labels={
                **({"perception": grid.in_view} if regime.objective is labels else {}),
                **({"memory": grid.cue} if regime.memory is cue else {}),
            },
            seed=seed,
        )
        self.found: dict[str, Any] = {name: [] for name in (*LOGS, "decisions")}
        self.found["snr"] = {}

    def train(self, phase: Phase, epochs: int) -> None:
        """Trains for a phase."""
        for name in ("cells", "perception"):
            self.model.get_layer(name).trainable = not phase.frozen
        model = compiled(self.model)
        watching = e2e.callbacks.ModuleDiagnostics
        if phase.mode is None:
            watching = e2e.callbacks.AutoMode
        else:
            model.training_mode = phase.mode
        watch = watching(update_freq=UPDATE_FREQ)
        returns = e2e.callbacks.EpisodeReturns(self.rollouts)
        logs = model.fit(
            self.rollouts, epochs=epochs, verbose=0, callbacks=[watch, returns]
        ).history
        for name, log in LOGS.items():
            self.found[name] += map(rounded, logs[log])
        for name, values in watch.history["gradient_snr"].items():
            self.found["snr"].setdefault(name, []).extend(map(rounded, values))
        self.found["verdicts"] = {n: v.state for n, v in watch.verdicts().items()}
        self.found["decisions"] += [
            {"step": d.step, "mode": str(d.mode), "reason": d.reason}
            for d in getattr(watch, "decisions", ())
        ]

    def play(self) -> None:
        """Plays some episodes with the policy as it is."""
        played = e2e.rewards.evaluate_policy(
            self.model,
            self.envs,
            episodes=EVALUATED,
            states={"state": "state"},
            deterministic=False,
            seed=self.seed,
        )
        self.found["return"] = rounded(played.mean_return)
        self.found["success"] = rounded(np.mean(played.returns > SUCCESS))


def train(world: grid.World, regime: Regime, seed: int) -> dict[str, Any]:
    """Trains one policy through its phases and plays some episodes with it."""
    keras.backend.clear_session()
    gc.collect()
    began = time.perf_counter()
    run = Run(world, regime, seed)
    epochs = world.env_steps // (grid.STEPS * run.envs.num_envs)
    for phase in regime.phases:
        run.train(phase, max(round(phase.share * epochs), 1))
    run.play()
    run.envs.close()
    seconds = round(time.perf_counter() - began, 1)
    return {**run.found, "env_steps": run.rollouts.env_steps, "seconds": seconds}


def rounded(value: Any) -> float | None:
    """A number as the JSON file has it; None where there is none."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def main(_: list[str]) -> None:
    """Runs what is missing, seed by seed, and prints the tables."""
    until, path = _shared.deadline(), pathlib.Path(FLAGS.output)
    results = _shared.Results(path, {"what": __doc__.splitlines()[0]})
    order = [
        (seed, world, regime)
        for seed in range(FLAGS.seeds)
        for world in FLAGS.worlds
        for regime in FLAGS.regimes
        if grid.WORLDS[world].has_cue or REGIMES[regime].memory is not cue
    ]
    for seed, world, regime in [] if FLAGS.table else order:
        steps = FLAGS.env_steps or grid.WORLDS[world].env_steps
        key = {"world": world, "regime": regime, "seed": seed, "env_steps": steps}
        if results.find(**key) is None and time.monotonic() < until:
            made = grid.WORLDS[world]._replace(env_steps=steps)
            run = train(made, REGIMES[regime], seed)
            results.put(run, **key)
            print(key, run["return"], run["success"], run["seconds"], flush=True)
    console = Console(width=160)
    for world in reports.worlds_of(results.runs):
        console.print(reports.report(results.runs, world, REGIMES))
    if FLAGS.figure and results.runs:
        colors = {name: regime.color for name, regime in REGIMES.items()}
        reports.draw(results.runs, colors, pathlib.Path(FLAGS.figure))


if __name__ == "__main__":
    define_flags()
    app.run(main)
