"""Grid worlds for `rewards_minigrid`: environments, labels, a model of three modules."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import keras
import minigrid
import numpy as np
from gymnasium.wrappers import TransformAction
from keras import layers, ops
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.wrappers import ImgObsWrapper

import keras_e2e as e2e

NUM_ENVS, STEPS = 16, 128
"""Environments, and the steps of each between two epochs of training."""
VIEW = 7
KINDS = (11, 6, 4)
"""How many objects, colors and states a cell of an observation can show."""

LABELED = tuple(OBJECT_TO_IDX[name] for name in ("door", "key", "ball", "goal"))
PARTS = (slice(0, 3), slice(3, 4), slice(4, 7))
"""Columns of the view: to the left, straight on, to the right."""
NUM_LABELS = len(LABELED) * len(PARTS)

WIDTH = 64
"""What perception and memory return at each step."""

LEFT, RIGHT, FORWARD, PICK_UP, _, TOGGLE, _ = range(7)


class World(NamedTuple):
    """An environment.

    Attributes:
        env_id: its id in Gymnasium.
        actions: the actions that do something in it, of MiniGrid's seven.
        env_steps: how many steps a run takes, in all environments together.
        sequence_length: over how many steps its memory is trained.
        has_cue: whether there is something that a memory has to hold (`Cue`).
    """

    env_id: str
    actions: tuple[int, ...]
    env_steps: int
    sequence_length: int
    has_cue: bool = False


MOVES = (LEFT, RIGHT, FORWARD)
WORLDS = {
    "Empty-5x5": World("MiniGrid-Empty-5x5-v0", MOVES, 40_960, 16),
    "Empty-8x8": World("MiniGrid-Empty-8x8-v0", MOVES, 81_920, 16),
    "DoorKey-5x5": World("MiniGrid-DoorKey-5x5-v0", (*MOVES, PICK_UP, TOGGLE), 61_440, 16),
    "MemoryS7": World("MiniGrid-MemoryS7-v0", MOVES, 204_800, 32, has_cue=True),
}


class QuickView(gymnasium.Wrapper):
    """What MiniGrid shows of the world, made several times as fast.

    MiniGrid copies and turns a part of the grid at each step, cell by cell in Python: most
    of the time that its environments take. Here the cells are looked up where they are.
    `tests/test_benchmarks.py` compares the two.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.unwrapped.gen_obs = self.gen_obs

    def gen_obs(self) -> dict[str, Any]:
        """In place of MiniGrid's method of that name."""
        env = self.unwrapped
        places = _places(
            tuple(map(int, env.agent_pos)), env.agent_dir, env.width, env.height
        )
        grid = env.grid.grid
        cells = [grid[place] if place >= 0 else _OUTSIDE for place in places]
        seen = _everything if env.see_through_walls else _seen(cells)
        cells[VIEW * (VIEW - 1) + VIEW // 2] = env.carrying
        codes = [
            ((1, 0, 0) if cell is None else cell.encode()) if see else (0, 0, 0)
            for cell, see in zip(cells, seen, strict=True)
        ]
        image = np.array(codes, "uint8").reshape(VIEW, VIEW, 3).transpose(1, 0, 2)
        return {"image": image, "direction": env.agent_dir, "mission": env.mission}


_OUTSIDE = minigrid.core.world_object.Wall()
_everything = (True,) * VIEW**2


@functools.cache
def _places(at: tuple, direction: int, width: int, height: int) -> tuple[int, ...]:
    """The cells of the grid that make the view, row by row; -1 outside of it."""
    ahead = np.array(((1, 0), (0, 1), (-1, 0), (0, -1))[direction])
    right = np.array((-ahead[1], ahead[0]))
    found = []
    for row in range(VIEW):
        for column in range(VIEW):
            x, y = np.array(at) + ahead * (VIEW - 1 - row) + right * (column - VIEW // 2)
            inside = 0 <= x < width and 0 <= y < height
            found.append(int(y * width + x) if inside else -1)
    return tuple(found)


def _seen(cells: list) -> list[bool]:
    """Which cells of a view are not behind a wall or a door, as `Grid.process_vis`."""
    found: list[list[bool]] = []
    reached = tuple(column == VIEW // 2 for column in range(VIEW))
    for row in reversed(range(VIEW)):
        line = cells[VIEW * row : VIEW * (row + 1)]
        clear = tuple(cell is None or cell.see_behind() for cell in line)
        now, reached = _spread(reached, clear)
        found.append(now)
    return [see for line in reversed(found) for see in line]


@functools.cache
def _spread(reached: tuple, clear: tuple) -> tuple[tuple, tuple]:
    """What is seen of a row of which some is reached, and what is reached behind it."""
    now, behind = list(reached), [False] * VIEW
    for columns, step in ((range(VIEW - 1), 1), (range(VIEW - 1, 0, -1), -1)):
        for column in columns:
            if now[column] and clear[column]:
                now[column + step] = behind[column + step] = behind[column] = True
    return tuple(now), tuple(behind)


def environments(world: World) -> gymnasium.vector.VectorEnv:
    """Copies of a world; observations are symbols, `(7, 7, 3)`."""

    def make() -> gymnasium.Env:
        env = Cue(QuickView(ImgObsWrapper(gymnasium.make(world.env_id))))
        few = gymnasium.spaces.Discrete(len(world.actions))
        return TransformAction(env, world.actions.__getitem__, few)

    return gymnasium.vector.SyncVectorEnv(
        [make] * NUM_ENVS, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
    )


class Cue(gymnasium.Wrapper):
    """Says in the info which object a memory is to hold: that of `MemoryS7`'s first room.

    1 for a ball, 0 for a key, -1 where there is neither.
    """

    def reset(self, **kwargs: Any) -> tuple:
        observation, info = self.env.reset(**kwargs)
        world = self.unwrapped
        first = world.grid.get(1, world.height // 2 - 1)
        kind = None if first is None else first.type
        self.cue = {"ball": 1, "key": 0}.get(kind, -1)
        return observation, {**info, "cue": self.cue}

    def step(self, action: Any) -> tuple:
        *found, info = self.env.step(action)
        return (*found, {**info, "cue": self.cue})


def cue(observations: np.ndarray, infos: Mapping) -> np.ndarray:
    """Labels: the object that a memory is to hold (`Cue`)."""
    return infos["cue"]


def in_view(observations: np.ndarray, infos: Mapping) -> np.ndarray:
    """Labels: whether a door, key, ball or goal is seen to the left, ahead, to the right.

    Args:
        observations: array `(num_envs, 7, 7, 3)`.
        infos: what the environments say beside it; not used.
    """
    objects = observations[..., 0]
    found = [
        (objects[:, part] == kind).any(axis=(1, 2)) for kind in LABELED for part in PARTS
    ]
    return np.stack(found, axis=-1).astype("float32")


def symbols(observations: Any) -> Any:
    """One-hot codes of objects, colors and states, `(..., 7, 7, 21)`."""
    codes = ops.cast(observations, "int32")
    parts = [ops.one_hot(codes[..., i], size) for i, size in enumerate(KINDS)]
    return ops.concatenate(parts, axis=-1)


@keras.saving.register_keras_serializable("minigrid")
class Observation(e2e.objectives.LocalObjective):
    """Trains perception so that what is seen can be told from its activation.

    Args:
        ahead: integer: 0 for what is seen now (reconstruction), 1 for what is seen next.
        **kwargs: as in `LocalObjective`.
    """

    def __init__(self, ahead: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.ahead = ahead

    def build_head(self, activation: keras.KerasTensor, model: Any) -> None:
        self.decoder = layers.Dense(VIEW**2 * sum(KINDS))
        self.decoder.build(activation.shape)

    def loss(self, activation: Any, batch: Any) -> Any:
        seen = symbols(batch.x["observation"])[:, self.ahead :]
        activation = activation[:, : activation.shape[1] - self.ahead]
        decoded = ops.reshape(self.decoder(activation), ops.shape(seen))
        begin, missed = 0, 0.0
        for size in KINDS:
            part = slice(begin, begin + size)
            logs = ops.log_softmax(decoded[..., part])
            missed = missed - ops.sum(seen[..., part] * logs, axis=-1)
            begin += size
        values = ops.mean(missed, axis=(-2, -1))
        weight = batch.sample_weight
        if weight is not None:
            # Behind its end a sequence is filled up: there is nothing to predict.
            there = ops.cast(weight[:, self.ahead :] != 0, values.dtype)
            values = values * there
        # One value for each step, as there is one weight.
        return ops.pad(values, ((0, 0), (0, self.ahead)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ahead": self.ahead}


def policy(num_actions: int) -> keras.Model:
    """A policy of three modules: they end in `perception`, `memory` and the outputs."""
    observation = keras.Input((None, VIEW, VIEW, 3), dtype="uint8", name="observation")
    state = keras.Input((WIDTH,), name="state")
    cells = layers.Dense(16, "relu", name="cells")(symbols(observation))
    flat = layers.Reshape((-1, 16 * VIEW**2), name="flat")(cells)
    seen = layers.Dense(WIDTH, "relu", name="perception")(flat)
    memory = layers.GRU(WIDTH, return_sequences=True, return_state=True, name="memory")
    remembered, last = memory(seen, initial_state=state)
    # Small at first, so that all actions are about as likely.
    small = keras.initializers.Orthogonal(0.01)
    return keras.Model(
        {"observation": observation, "state": state},
        {
            "policy": layers.Dense(num_actions, kernel_initializer=small, name="policy")(
                remembered
            ),
            "value": layers.Dense(1, name="value")(remembered),
            # A boundary may not stand on an output: the memory must not end in one.
            "state": layers.Identity(name="next_state")(last),
        },
    )
