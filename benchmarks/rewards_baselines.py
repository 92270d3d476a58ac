"""PPO by `fit` against stable-baselines3's: returns, and environment steps per second.

Both train the same networks (an MLP of two tanh layers for the policy, another for the
value, orthogonal initialization) with the same numbers, Adam, clipping of the gradients'
norm and treatment of time limits, for as many environment steps, on environments in the
process that trains, which has one thread. The sides take turns, seed by seed. Ours is a
modular model in end_to_end mode.

    pip install stable-baselines3 minigrid
    python benchmarks/rewards_baselines.py [--seeds=5] [--tasks=CartPole-v1]

A side or task whose package is missing is left out, and a line says so. stable-baselines3
may be in another environment: `--sb3_python=PATH` is its interpreter. Runs that are in the
JSON file are not repeated.
"""

import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

from _rewards_settings import EVALUATED_EPISODES, SETTINGS, Clock, Setting, make_env

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gymnasium
import keras
import scipy.stats
import tensorflow as tf
from _shared import Results, deadline
from absl import app, flags
from rich import box
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
flags.DEFINE_integer("seeds", 5, "How many seeds, counted from 0.", lower_bound=1)
flags.DEFINE_list("tasks", list(SETTINGS), "Which tasks.")
flags.DEFINE_integer("env_steps", None, "Environment steps of each run, if not the task's.")
flags.DEFINE_float("minutes", None, "Begin no run after so many minutes.")
flags.DEFINE_bool("fresh", False, "Forget the runs that are in the JSON file.")
flags.DEFINE_string("sb3_python", sys.executable, "The interpreter that has SB3.")
flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")

OURS, THEIRS = "keras_e2e", "stable-baselines3"
# What is reported: the name in a run, and its heading.
RETURNS = {
    "last": "mean return of the last 100 episodes",
    "evaluated": f"return of {EVALUATED_EPISODES} evaluated episodes",
}


def networks(task: str, setting: Setting, seed: int) -> keras.Model:
    """A policy and a value that share nothing, as SB3's MlpPolicy."""
    env = make_env(task)
    x = inputs = keras.Input(env.observation_space.shape)
    if setting.normalize:
        x = e2e.rewards.ObservationNormalization()(x)
    seeds = iter(range(6 * seed, 6 * seed + 6))

    def dense(units, gain, activation=None, name=None):
        initializer = keras.initializers.Orthogonal(gain, seed=next(seeds))
        return keras.layers.Dense(units, activation, True, initializer, name=name)

    outputs = {}
    for name, units, gain in (("policy", int(env.action_space.n), 0.01), ("value", 1, 1.0)):
        y = dense(setting.units, math.sqrt(2), "tanh", f"{name}_first")(x)
        y = dense(setting.units, math.sqrt(2), "tanh", f"{name}_second")(y)
        outputs[name] = dense(units, gain, name=name)(y)
    return keras.Model(inputs, outputs)


class Adam(keras.optimizers.Adam):
    """Adds epsilon where PyTorch does, behind the correction of bias.

    Keras adds it before, as the paper's faster variant: in the first steps it counts for up
    to 30 times as much.
    """

    def update_step(self, gradient, variable, learning_rate):
        given = self.epsilon
        steps = keras.ops.cast(self.iterations + 1, variable.dtype)
        self.epsilon = given * keras.ops.sqrt(1 - self.beta_2**steps)
        super().update_step(gradient, variable, learning_rate)
        self.epsilon = given


def compiled(task: str, setting: Setting, seed: int) -> e2e.ModularModel:
    """The networks with PPO's losses, in end_to_end mode."""
    hidden = {("policy_second", "value_second"): None}
    model = e2e.modularize(networks(task, setting, seed), hidden)
    model.training_mode = "end_to_end"
    optimized(model, setting, Adam)
    return model


def optimized(model: keras.Model, setting: Setting, optimizer: type) -> None:
    """Compiles a model with PPO's losses and the optimizer's numbers of SB3."""
    model.compile(
        optimizer(setting.learning_rate, epsilon=1e-5, global_clipnorm=0.5),
        loss={"policy": e2e.rewards.PPO(setting.clip), "value": "mse"},
        loss_weights={"policy": 1.0, "value": 0.5},
        steps_per_execution=setting.batches,
    )


def environments(task: str, setting: Setting) -> gymnasium.vector.VectorEnv:
    """The environments, in this process."""
    return gymnasium.vector.SyncVectorEnv(
        [lambda: make_env(task)] * setting.num_envs,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )


def train(task: str, seed: int, setting: Setting) -> dict:
    """Trains once, and returns returns and seconds."""
    keras.utils.set_random_seed(seed)
    model = compiled(task, setting, seed)
    rollouts = e2e.rewards.Rollouts(
        environments(task, setting),
        model,
        steps=setting.steps,
        passes=setting.passes,
        batch_size=setting.batch_size,
        discount=setting.discount,
        gae_lambda=setting.gae_lambda,
        seed=seed,
    )
    clock = Clock()
    callbacks = [
        e2e.callbacks.EpisodeReturns(rollouts),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: clock.read()),
    ]
    if setting.falling:
        callbacks.append(keras.callbacks.LearningRateScheduler(setting.falling_rate))
    history = model.fit(rollouts, epochs=setting.rollouts, verbose=0, callbacks=callbacks)
    evaluated = e2e.rewards.evaluate_policy(
        model, environments(task, setting), EVALUATED_EPISODES, seed=seed + 1000
    )
    return {
        "evaluated": evaluated.mean_return,
        "curve": history.history["episode_return"],
        **clock.measured(rollouts.env_steps),
    }


def of_sb3(task: str, seed: int, setting: Setting, **more: str) -> dict:
    """What `_rewards_sb3.py` prints."""
    asked = json.dumps({"task": task, "seed": seed, "setting": setting._asdict(), **more})
    script = pathlib.Path(__file__).parent / "_rewards_sb3.py"
    command = [FLAGS.sb3_python, str(script), asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(side: str, task: str, seed: int, setting: Setting) -> dict:
    """A run of one side: ours here, that of SB3 in a process of its own."""
    if side == OURS:
        keras.backend.clear_session()
        found = train(task, seed, setting)
    else:
        found = of_sb3(task, seed, setting)
    return {**found, "last": found["curve"][-1]}


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, by Student's t."""
    if len(values) < 2:
        return float("nan"), float("nan")
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = error * scipy.stats.t.ppf(0.975, len(values) - 1)
    return statistics.mean(values) - reach, statistics.mean(values) + reach


def within(theirs: list[float], ours: list[float]) -> bool:
    """Whether the mean of ours lies in the interval of the mean of theirs."""
    low, high = interval(theirs)
    return low <= statistics.mean(ours) <= high


def table_of_returns(runs: list[dict], what: str) -> Table:
    """Returns by task and side, and whether our mean lies in SB3's interval."""
    table = Table("task", "side", "by seed", "mean", "95 % interval", box=box.MARKDOWN)
    table.add_column("ours within")
    table.title = RETURNS[what]
    for task in SETTINGS:
        of_side = {
            side: [r[what] for r in runs if (r["task"], r["side"]) == (task, side)]
            for side in (OURS, THEIRS)
        }
        for side, values in of_side.items():
            if not values:
                continue
            low, high = interval(values)
            verdict = ""
            if side == THEIRS and of_side[OURS] and len(values) > 1:
                verdict = "yes" if within(values, of_side[OURS]) else "no"
            seeds = ", ".join(f"{value:.4g}" for value in values)
            mean = f"{statistics.mean(values):.4g}"
            table.add_row(task, side, seeds, mean, f"{low:.4g} to {high:.4g}", verdict)
    return table


def table_of_speed(runs: list[dict]) -> Table:
    """Environment steps per second: the median over seeds, and that of the ratios."""
    columns = ("task", "steps per second of", OURS, THEIRS, "ratio")
    table = Table(*columns, box=box.MARKDOWN)
    table.title = "environment steps per second, median over seeds"
    for task in SETTINGS:
        by_seed: dict = {}
        for one in runs:
            if one["task"] == task:
                by_seed.setdefault(one["seed"], {})[one["side"]] = one
        pairs = [sides for sides in by_seed.values() if len(sides) == 2]
        for key, label in (
            ("per_second", "the wall"),
            ("per_cpu_second", "the CPU"),
            ("later_per_second", "the wall, after the first rollout"),
            ("later_per_cpu_second", "the CPU, after the first rollout"),
        ):
            known = [pair for pair in pairs if all(key in run for run in pair.values())]
            if known:
                ours, theirs = ([p[side][key] for p in known] for side in (OURS, THEIRS))
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                medians = (statistics.median(rates) for rates in (ours, theirs))
                texts = [f"{rate:.0f}" for rate in medians]
                table.add_row(task, label, *texts, f"{statistics.median(ratios):.2f}")
    return table


def available(tasks: list[str], sb3_python: str) -> tuple[list[str], list[str]]:
    """Sides and tasks whose packages are there; of others a line is printed."""
    unknown = sorted(set(tasks) - set(SETTINGS))
    if unknown:
        raise app.UsageError(f"--tasks: {unknown} not among {list(SETTINGS)}")
    if importlib.util.find_spec("minigrid") is None:
        tasks = [task for task in tasks if not task.startswith("MiniGrid")]
        print("minigrid is not installed: its task is left out (pip install minigrid).")
    look = "import importlib.util as u; exit(u.find_spec('stable_baselines3') is None)"
    if not subprocess.run([sb3_python, "-c", look]).returncode:
        return [OURS, THEIRS], tasks
    print(
        "stable-baselines3 is not installed: our side runs alone (pip install "
        "stable-baselines3, or --sb3_python=PATH)."
    )
    return [OURS], tasks


def main(argv):
    del argv
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sides, tasks = available(FLAGS.tasks, FLAGS.sb3_python)
    path = pathlib.Path(FLAGS.output) / "rewards_baselines.json"
    results = Results(path, {"what": __doc__.splitlines()[0]}, FLAGS.fresh)
    until = deadline()
    for seed in range(FLAGS.seeds):
        for task in tasks:
            setting = SETTINGS[task]
            if FLAGS.env_steps is not None:
                setting = setting._replace(env_steps=FLAGS.env_steps)
            for side in sides if seed % 2 else sides[::-1]:
                key = {"side": side, "task": task, "seed": seed}
                key["setting"] = setting._asdict()
                if results.find(**key) is None and time.monotonic() < until:
                    results.put(run(side, task, seed, setting), **key)
    console = Console(width=150)  # so that a row is a line
    for what in RETURNS:
        console.print(table_of_returns(results.runs, what))
    console.print(table_of_speed(results.runs))


if __name__ == "__main__":
    app.run(main)
