"""Digits by reward: where training end to end breaks down, and what repairs it.

Trains the policy of `tasks.parity_by_reward` in each regime with equal environment steps,
and prints how many seeds succeed: halfway between chance and 1, a mean reward of .75 for
test images. Each run is written as a line of JSON when it is finished; what is there is not
run again.

    python benchmarks/rewards_digits.py [--k=3,2,1] [--seeds=10] [--rollouts=36]
        [--regimes=...] [--output_dir=benchmarks/results] [--notrain] [--figure=FILE.png]

A rollout is one step in each of 1,024 environments, gone through 4 times in batches of 128.
"""

import collections
import functools
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _rewards_figure import draw
from absl import app, flags
from rich.console import Console

import keras_e2e as e2e
from keras_e2e import regimes, tasks
from keras_e2e.diagnostics import judge
from keras_e2e.diagnostics.states import Place
from keras_e2e.experiments.limits.results import purity
from keras_e2e.experiments.limits.summary import wilson

FLAGS = flags.FLAGS
NUM_ENVS, UPDATE_FREQ = 1024, 32
MARK, FIRST = 0.75, 3
# Regime, and the number of labeled images; None means all.
RUNS = (
    ("end_to_end", 0),
    ("local_barlow_twins", 0),
    ("pretrained_barlow_twins", 0),
    ("deep_supervision", 10),
    ("local_then_end_to_end", 10),
    ("deep_supervision", None),
    ("local_then_end_to_end", None),
    ("auto", None),
    ("auto", 10),
    ("local_reconstruction", 0),
    ("pretrained_reconstruction", 0),
)


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_list("k", ["3", "2", "1"], "Images in a tuple.")
    flags.DEFINE_integer("seeds", 10, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_integer("rollouts", 36, "How many rollouts.", lower_bound=3)
    flags.DEFINE_list("regimes", [], "Regimes; all by default.")
    flags.DEFINE_string("output_dir", "benchmarks/results", "Where the runs are kept.")
    flags.DEFINE_bool("train", True, "Whether missing runs are made.")
    flags.DEFINE_string("figure", "", "The figure, a PNG file; none by default.")


class Keep(keras.callbacks.Callback):
    """Keeps what was measured over all stages, once for each rollout.

    Args:
        watch: The callback that measures.
    """

    def __init__(self, watch: e2e.callbacks.ModuleDiagnostics):
        super().__init__()
        self.watch = watch
        self.numbers: dict[str, dict[str, list]] = {}
        self.states: dict[str, list] = {}

    def on_epoch_end(self, epoch, logs=None):
        """Takes the latest measurements and verdicts."""
        for quantity in ("gradient_snr", "skill", "loss"):
            for module, values in self.watch.history[quantity].items():
                kept = self.numbers.setdefault(quantity, {}).setdefault(module, [])
                kept.append(plain(values[-1]) if values else None)
        for module, verdict in self.watch.verdicts().items():
            self.states.setdefault(module, []).append(verdict.state)


def plain(value: float) -> float | None:
    """A number that can be written as JSON."""
    return round(float(value), 4) if np.isfinite(value) else None


def run(k: int, regime: str, labels: int | None, seed: int, rollouts: int, model) -> tuple:
    """One run: its record, and the model."""
    task = tasks.parity_by_reward(k, seed=seed, labeled=labels)
    if regime == "auto":
        watch = e2e.callbacks.AutoMode()
    else:
        watch = e2e.callbacks.ModuleDiagnostics(UPDATE_FREQ)
    keep = Keep(watch)
    found = regimes.train_by_reward(
        task,
        regime,
        rollouts * NUM_ENVS,
        seed=seed,
        num_envs=NUM_ENVS,
        watch=watch,
        callbacks=[keep],
        model=model,
        verbose=0,
    )
    record = {
        "k": k,
        "regime": regime,
        "labels": labels,
        "seed": seed,
        "rollouts": rollouts,
        "reward": found.reward,
        "success": found.reward >= task.success,
        "curve": [plain(logs["episode_return"]) for logs in found.trained.history],
        "purity": purity_of(found.model, task),
        "numbers": keep.numbers,
        "states": keep.states,
        "decisions": [[d.step, str(d.mode)] for d in getattr(watch, "decisions", [])],
        "seconds": round(found.trained.seconds, 1),
    }
    return record, found.model


def purity_of(model, task) -> float:
    """How well the encoder tells the classes of unseen images apart, up to their names."""
    base = task.build(0)
    regimes.transfer_weights(e2e.strip(model), base)
    part = keras.Model(base.inputs, base.get_layer("symbols").output)
    units = np.asarray(part([task.test.x])).argmax(-1)
    return round(purity(units, task.test.labels["symbols"]), 4)


def key(record: dict) -> tuple:
    """What tells runs apart."""
    return tuple(record[name] for name in ("k", "regime", "labels", "seed", "rollouts"))


def load(path: pathlib.Path) -> list[dict]:
    """The runs that are there; a line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def sweep(path: pathlib.Path, console: Console) -> None:
    """Runs what is missing."""
    done = {key(record) for record in load(path)}
    for k in map(int, FLAGS.k):
        for regime, labels in RUNS:
            if FLAGS.regimes and regime not in FLAGS.regimes:
                continue
            model = None
            for seed in range(FLAGS.seeds):
                if (k, regime, labels, seed, FLAGS.rollouts) in done:
                    continue
                record, model = run(k, regime, labels, seed, FLAGS.rollouts, model)
                with path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                shown = f"k={k} {regime} {labels} seed {seed}: {record['reward']:.3f}"
                console.print(shown, highlight=False)
                if labels == 0:  # heads of objectives begin with weights of their own
                    model = None if regime != "end_to_end" else model
            keras.backend.clear_session()


def cell(runs: list[dict]) -> str:
    """Successes, median reward, and Wilson's interval."""
    if not runs:
        return ""
    count, total = sum(run["success"] for run in runs), len(runs)
    low, high = wilson(count, total)
    median = np.median([run["reward"] for run in runs])
    return f"{count}/{total} ({median:.3f}) [{low:.2f}, {high:.2f}]".replace("0.", ".")


def table(records: list[dict]) -> str:
    """The table of all regimes over k, in Markdown."""
    sizes = sorted({record["k"] for record in records})
    lines = ["| regime | labels | " + " | ".join(f"k={k}" for k in sizes) + " |"]
    lines += ["|---" * (2 + len(sizes)) + "|"]
    for regime, labels in RUNS:
        chosen = [r for r in records if (r["regime"], r["labels"]) == (regime, labels)]
        if chosen:
            cells = [cell([r for r in chosen if r["k"] == k]) for k in sizes]
            known = {0: "none", None: "all"}.get(labels, labels)
            lines.append(f"| {regime} | {known} | {' | '.join(cells)} |")
    return "\n".join(lines)


def takes_off(record: dict) -> int | None:
    """The rollout after which the mean return was above the mark; None: never."""
    above = [value is not None and value >= MARK for value in record["curve"]]
    return above.index(True) if any(above) else None


def snr_before(record: dict, module: str) -> float:
    """The mean SNR of a module's gradient until the run takes off, or to its end.

    Without the first three rollouts, in which the value learns how frequent rewards are.
    """
    end = takes_off(record)
    known = record["numbers"]["gradient_snr"][module][FIRST:end]
    return float(np.mean([v for v in known if v is not None] or [np.nan]))


def verdicts(record: dict) -> dict[str, str]:
    """The verdicts at the end by what was kept, of runs in one mode."""
    history = {
        name: {m: [np.nan if v is None else v for v in values] for m, values in own.items()}
        for name, own in record["numbers"].items()
    }
    steps = 1 + UPDATE_FREQ * np.arange(len(record["curve"]))
    places = {"outputs": Place(task=True, surrogate=True)}
    found = judge(history, steps, places=places)
    return {module: verdict.state for module, verdict in found.items()}


def spread(values: list[float]) -> str:
    """The lowest and the highest."""
    return f"({min(values):.3f} to {max(values):.3f})"


def signals(records: list[dict]) -> str:
    """The table of SNR and verdicts of runs end to end, in Markdown."""
    lines = [
        "| k | runs | encoder's SNR | policy's SNR | verdict on the encoder at the end |",
        "|---|---|---|---|---|",
    ]
    chosen = [r for r in records if r["regime"] == "end_to_end"]
    for k in sorted({r["k"] for r in chosen}):
        for success, said in ((True, "succeed"), (False, "fail")):
            runs = [r for r in chosen if (r["k"], r["success"]) == (k, success)]
            if not runs:
                continue
            cells = []
            for module in ("symbols", "outputs"):
                values = [snr_before(run, module) for run in runs]
                known = [value for value in values if np.isfinite(value)]
                cells.append(f"{np.median(known):.3f} {spread(known)}" if known else "")
            states = collections.Counter(verdicts(run)["symbols"] for run in runs)
            counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
            lines.append(f"| {k} | {len(runs)} {said} | {' | '.join(cells)} | {counts} |")
    return "\n".join(lines)


def main(argv):
    """Runs what is missing, prints the tables, and draws the figure."""
    del argv
    console = Console(width=160)
    folder = pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rewards_digits.jsonl"
    if FLAGS.train:
        sweep(path, console)
    records = [r for r in load(path) if r["rollouts"] == FLAGS.rollouts]
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{table(records)}\n\n{signals(records)}")
    if FLAGS.figure:
        draw(records, NUM_ENVS, pathlib.Path(FLAGS.figure))


if __name__ == "__main__":
    define_flags()
    app.run(main)
