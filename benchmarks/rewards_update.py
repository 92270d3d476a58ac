"""The same rollout, learned from by stable-baselines3's PPO and by ours, in numbers.

stable-baselines3 makes a rollout and learns from it; our networks begin with its weights
and are given the same batches. What is compared: values and probabilities of the actions,
advantages and returns (episodes that end and are cut off among them), and the weights after
all updates. A difference of weights is a share of how far they moved, once with the
benchmark's Adam, which adds epsilon where PyTorch does, once with Keras's own.

    pip install stable-baselines3 minigrid
    python benchmarks/rewards_update.py [--tasks=CartPole-v1] [--sb3_python=PATH]
"""

import json
import pathlib
import tempfile

import keras
import numpy as np
from _rewards_settings import SETTINGS, Setting
from absl import app, flags
from rewards_baselines import Adam, available, networks, of_sb3, optimized
from rich import box
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 512, "Steps of the rollout in each environment.")
flags.DEFINE_integer("passes", 2, "How often it is gone through.")

# By our name of a layer.
LAYERS = {
    "policy_first": "mlp_extractor.policy_net.0",
    "policy_second": "mlp_extractor.policy_net.2",
    "policy": "action_net",
    "value_first": "mlp_extractor.value_net.0",
    "value_second": "mlp_extractor.value_net.2",
    "value": "value_net",
}


class Batches(keras.utils.PyDataset):
    """The rollout in the order in which stable-baselines3 took it."""

    def __init__(self, found: dict, advantages, log_probs, values, batch_size: int):
        super().__init__()
        self._rows = found["orders"].reshape(-1, batch_size)
        columns = [found["actions"].reshape(advantages.shape), advantages, log_probs]
        # It puts the steps of an environment behind one another.
        self._x, self._y, self._returns = (
            np.swapaxes(a, 0, 1).reshape(advantages.size, *a.shape[2:]).astype("float32")
            for a in (found["observations"], np.stack(columns, -1), advantages + values)
        )

    @property
    def num_batches(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple:
        rows = self._rows[index]
        y = self._y[rows]
        y[:, 1] = (y[:, 1] - y[:, 1].mean()) / (y[:, 1].std(ddof=1) + 1e-8)
        return self._x[rows], {"policy": y, "value": self._returns[rows, None]}


def begin_with(model: keras.Model, found: dict) -> None:
    """Gives a model the weights that stable-baselines3 began with."""
    for ours, theirs in LAYERS.items():
        kernel, bias = (found[f"before/{theirs}.{name}"] for name in ("weight", "bias"))
        model.get_layer(ours).set_weights([kernel.T, bias])


def distance(model: keras.Model, found: dict) -> float:
    """How far the weights are from stable-baselines3's, as a share of their way."""
    apart, way = [], []
    for ours, theirs in LAYERS.items():
        names = (f"{theirs}.weight", f"{theirs}.bias")
        for weight, name in zip(model.get_layer(ours).get_weights(), names, strict=True):
            before, after = found[f"before/{name}"], found[f"after/{name}"]
            apart.append(np.ravel(weight.T - after))
            way.append(np.ravel(after - before))
    length = np.linalg.norm
    return float(length(np.concatenate(apart)) / length(np.concatenate(way)))


def compare(task: str, setting: Setting, found: dict) -> dict[str, float]:
    """The largest difference of each quantity, and that of the weights."""
    # The observations are normalized already.
    model = networks(task, setting._replace(normalize=False), seed=0)
    begin_with(model, found)

    def predict(observations):
        flat = observations.reshape(-1, *observations.shape[2:]).astype("float32")
        said = model.predict(flat, batch_size=4096, verbose=0)
        shape = observations.shape[:2]
        return said["policy"].reshape(*shape, -1), said["value"].reshape(shape)

    logits, values = predict(found["observations"])
    _, next_values = predict(found["final"])
    chosen = found["actions"].reshape(values.shape).astype(int)
    log_probs = np.asarray(keras.ops.log_softmax(logits))
    log_probs = np.take_along_axis(log_probs, chosen[..., None], -1)[..., 0]
    ends = [found["terminated"], found["truncated"]]
    advantages = e2e.rewards.generalized_advantages(
        found["rewards"], values, next_values, *ends, setting.discount, setting.gae_lambda
    )
    ours = {"values": values, "log_probs": log_probs, "advantages": advantages}
    ours["returns"] = advantages + values
    numbers = {name: float(np.abs(a - found[name]).max()) for name, a in ours.items()}
    data = Batches(found, advantages, log_probs, values, setting.batch_size)
    for name, optimizer in (("weights", Adam), ("weights_keras", keras.optimizers.Adam)):
        begin_with(model, found)
        optimized(model, setting, optimizer)
        model.fit(data, shuffle=False, verbose=0)
        numbers[name] = distance(model, found)
    ended, cut = (int(end.sum()) for end in ends)
    return {**numbers, "ended": ended, "cut": cut, "updates": data.num_batches}


def main(argv):
    del argv
    sides, tasks = available(FLAGS.tasks, FLAGS.sb3_python)
    if len(sides) < 2:
        return
    counts = ("updates", "ended", "cut")
    differences = ("values", "log_probs", "advantages", "returns")
    weights = ("weights", "weights, Keras's Adam")
    table = Table("task", *counts, *differences, *weights, box=box.MARKDOWN)
    rows = []
    for task in tasks:
        setting = SETTINGS[task]._replace(
            steps=FLAGS.steps, passes=FLAGS.passes, falling=False
        )
        with tempfile.TemporaryDirectory() as folder:
            path = str(pathlib.Path(folder) / "rollout.npz")
            of_sb3(task, 0, setting, path=path)
            with np.load(path) as file:
                found = dict(file)
        row = compare(task, setting, found)
        rows.append({"task": task, **row})
        texts = [f"{row[name]}" for name in counts]
        texts += [f"{row[name]:.1g}" for name in (*differences, "weights", "weights_keras")]
        table.add_row(task, *texts)
    Console(width=130).print(table)
    path = pathlib.Path(FLAGS.output) / "rewards_update.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app.run(main)
