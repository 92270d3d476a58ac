"""A run of stable-baselines3's PPO, for `rewards_baselines.py`.

    python benchmarks/_rewards_sb3.py '{"task": "CartPole-v1", "seed": 0, "setting": {...}}'

prints what it got as JSON. It needs stable-baselines3, and minigrid for its tasks.
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


def train(task: str, seed: int, setting: Setting) -> dict:
    """Trains once, and returns returns and seconds."""
    torch.set_num_threads(1)
    envs = environments(task, setting, seed, training=True)
    rate = setting.learning_rate
    model = PPO(
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


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    setting = Setting(**asked["setting"])
    print(json.dumps(train(asked["task"], asked["seed"], setting)))
