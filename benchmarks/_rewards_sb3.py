"""A run of stable-baselines3's PPO, for `rewards_baselines.py` and `rewards_update.py`.

    python benchmarks/_rewards_sb3.py '{"task": "CartPole-v1", "seed": 0, "setting": {...}}'

prints what it got as JSON; with `"path": FILE` it saves one rollout, and the weights before
and after it was learned from. It needs stable-baselines3, and minigrid for its tasks.
"""

import json
import sys

import numpy as np
import torch
from _rewards_settings import EVALUATED_EPISODES, Clock, Setting, make_env
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize


class Curve(BaseCallback):
    """The mean return of the latest 100 episodes after each rollout, and the time."""

    def __init__(self):
        super().__init__()
        self.returns: list[float] = []
        self.clock = Clock()

    def _on_training_start(self):
        self.clock = Clock()

    def _on_rollout_start(self):
        # Called before the rollout, so the one before it has been learned from.
        if self.returns:
            self.clock.read()

    def _on_rollout_end(self):
        latest = [episode["r"] for episode in self.model.ep_info_buffer]
        self.returns.append(float(np.mean(latest)) if latest else float("nan"))

    def _on_step(self):
        return True


def environments(task: str, setting: Setting, seed: int, training: bool):
    """The environments, in this process, with observations normalized if asked for."""
    envs = make_vec_env(lambda: make_env(task), setting.num_envs, seed)
    if setting.normalize:
        envs = VecNormalize(envs, training=training, norm_reward=False)
    return envs


def model_of(setting: Setting, envs, seed: int) -> PPO:
    """PPO with the setting's numbers."""
    torch.set_num_threads(1)
    rate = setting.learning_rate
    return PPO(
        "MlpPolicy",
        envs,
        learning_rate=(lambda left: rate * left) if setting.falling else rate,
        n_steps=setting.steps,
        batch_size=setting.batch_size,
        n_epochs=setting.passes,
        gamma=setting.discount,
        gae_lambda=setting.gae_lambda,
        clip_range=setting.clip,
        policy_kwargs={"net_arch": [setting.units] * 2},
        seed=seed,
        device="cpu",
    )


def train(task: str, seed: int, setting: Setting) -> dict:
    """Trains once, and returns returns and seconds."""
    envs = environments(task, setting, seed, training=True)
    model = model_of(setting, envs, seed)
    curve = Curve()
    env_steps = setting.rollouts * setting.num_envs * setting.steps
    model.learn(env_steps, callback=curve, log_interval=None)
    curve.clock.read()
    unseen = environments(task, setting, seed + 1000, training=False)
    if setting.normalize:
        unseen.obs_rms = envs.obs_rms
    evaluated, _ = evaluate_policy(model, unseen, EVALUATED_EPISODES)
    return {
        "evaluated": float(evaluated),
        "curve": curve.returns,
        **curve.clock.measured(env_steps),
    }


class Recorder(BaseCallback):
    """What a rollout was made of, before stable-baselines3 works on it."""

    def __init__(self):
        super().__init__()
        self.steps: list[dict] = []
        self.arrays: dict[str, np.ndarray] = {}

    def _on_step(self):
        # Rewards are given the value of what was cut off only after this call.
        infos, final = self.locals["infos"], np.array(self.locals["new_obs"])
        for i in np.flatnonzero(self.locals["dones"]):
            final[i] = infos[i]["terminal_observation"]
        cut = np.array([info["TimeLimit.truncated"] for info in infos])
        step = {"rewards": self.locals["rewards"], "final": final, "truncated": cut}
        step["terminated"] = self.locals["dones"] & ~cut
        self.steps.append({name: np.array(array) for name, array in step.items()})
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
        self.arrays = {name: getattr(buffer, name).copy() for name in names}
        for name in self.steps[0]:
            self.arrays[name] = np.stack([step[name] for step in self.steps])


def record(task: str, seed: int, setting: Setting, path: str) -> dict:
    """Saves a rollout, the order of its examples, and the weights before and after."""
    recorder, orders = Recorder(), []
    model = model_of(setting, environments(task, setting, seed, training=True), seed)
    before = {f"before/{k}": v.numpy().copy() for k, v in model.policy.state_dict().items()}
    draw = np.random.permutation

    def permutation(count):
        orders.append(draw(count))
        return orders[-1]

    np.random.permutation = permutation  # by which SB3 shuffles
    model.learn(setting.steps * setting.num_envs, callback=recorder, log_interval=None)
    after = {f"after/{k}": v.numpy() for k, v in model.policy.state_dict().items()}
    np.savez(path, orders=np.stack(orders), **recorder.arrays, **before, **after)
    return {"updates": len(orders) * setting.steps * setting.num_envs // setting.batch_size}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    asked["setting"] = Setting(**asked["setting"])
    run = record if "path" in asked else train
    print(json.dumps(run(**asked)))
