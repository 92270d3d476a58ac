"""The figure of `systems.py`: what the systems see, attend to and answer."""

import pathlib

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from keras_e2e.experiments import tasks
from keras_e2e.experiments.tasks.scenes import INK, NONE

# For the objects from the left, colors that the color-blind can tell apart; the ground.
OBJECTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
GROUND = "#888888"
RIGHT, WRONG = "#1e8449", "#c0392b"
REGIMES = {"end to end": "#c0392b", "local": "#2471a3"}
SCENES = 3

Found = dict[str, dict[str, np.ndarray]]


def draw(shown: dict[str, tuple[tasks.Split, Found]], path: pathlib.Path) -> None:
    """Draws scenes with their masks and readings, memories with their attention.

    Args:
        shown: of each task the test examples, and by regime the model's outputs.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(11, 11), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1.0), hspace=0.03)
    _scenes(above, *shown["scenes"])
    _memories(below, *shown["memory"])
    figure.savefig(path, dpi=100)


def _scenes(figure, test: tasks.Split, found: Found) -> None:
    figure.suptitle(
        "Scenes: which object each pixel belongs to (gray: none), and what the system "
        "reads (green: right, red: wrong)"
    )
    # Of those with four, three and two objects the first.
    counts = (test.y["reading"] != NONE).sum(axis=1)
    chosen = [int(np.flatnonzero(counts == count)[0]) for count in (4, 3, 2)]
    truth = {
        "segmentation": np.eye(len(OBJECTS) + 1)[test.labels["segmentation"]],
        "reading": np.eye(NONE + 1)[test.y["reading"]],
    }
    lines = {"labels": truth, **found}
    axes = figure.subplots(1 + len(lines), SCENES)
    for column, which in enumerate(chosen):
        image = test.x[which, ..., 0]
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=1)
        for axis, made in zip(axes[1:, column], lines.values(), strict=True):
            axis.imshow(_colored(image, made["segmentation"][which].argmax(-1)))
            read = made["reading"][which].argmax(-1)
            right = read == test.y["reading"][which]
            _reading(axis, read, right if made is not truth else None)
    for axis, label in zip(axes[:, 0], ("scene", *lines), strict=True):
        axis.set_ylabel(label, fontsize=10)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])


def _colored(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The bright pixels in the color of their object; the reader sees no others."""
    colors = np.array([to_rgb(color) for color in (GROUND, *OBJECTS)])
    return np.where(image > INK, image, 0.0)[..., None] * colors[mask]


def _reading(axis, read: np.ndarray, right: np.ndarray | None) -> None:
    """The digits that are read, below the picture, each in green or red."""
    for slot, label in enumerate(read):
        color = "black" if right is None else RIGHT if right[slot] else WRONG
        axis.text(
            (slot + 0.5) / len(read),
            -0.06,
            "·" if label == NONE else str(label),
            color=color,
            transform=axis.transAxes,
            ha="center",
            va="top",
            fontsize=11,
            fontweight="bold",
        )


def _memories(figure, test: tasks.Split, found: Found) -> None:
    figure.suptitle(
        "Memory: a question that both answer rightly, and one that only the system trained "
        "locally does (green frame: the slot asked for)"
    )
    right = {r: found[r]["answer"].argmax(-1) == test.y["answer"] for r in REGIMES}
    wanted = (right["end to end"], ~right["end to end"])
    chosen = [int(np.flatnonzero(right["local"] & these)[0]) for these in wanted]
    for which, half in zip(chosen, figure.subfigures(1, 2, wspace=0.04), strict=True):
        _memory(half, test, found, which)


def _memory(figure, test: tasks.Split, found: Found, which: int) -> None:
    m = test.x.shape[1] // 2
    side = round(test.x.shape[2] ** 0.5)
    images = test.x[which].reshape(-1, side, side)
    slot = int(test.labels["attention"][which])
    axes = figure.subplots(3, m + 1, height_ratios=(1, 1, 1.2))
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for column in range(m + 1):
        key, value = axes[:2, column]
        key.imshow(images[column if column < m else m], cmap="gray", vmin=0, vmax=1)
        if column < m:
            value.imshow(images[m + 1 + column], cmap="gray", vmin=0, vmax=1)
            _bars(axes[2, column], found, which, column)
        if column == slot:
            for axis in (key, value):
                axis.spines[:].set(color=RIGHT, linewidth=3)
    axes[0, m].set_title("query", fontsize=10)
    axes[0, 0].set_ylabel("key", fontsize=10)
    axes[1, 0].set_ylabel("value", fontsize=10)
    axes[2, 0].set_ylabel("attention", fontsize=10)
    axes[2, 0].set_yticks([0, 1])
    axes[1, m].axis("off")
    axes[2, m].axis("off")
    _answers(axes[2, m], test, found, which)


def _bars(axis, found: Found, which: int, slot: int) -> None:
    for place, (regime, color) in enumerate(REGIMES.items()):
        value = float(found[regime]["attention"][which, slot])
        axis.bar(place, value, color=color, width=0.8)
        axis.text(place, value + 0.03, f"{value:.2f}", ha="center", fontsize=8)
    axis.set_xlim(-0.7, len(REGIMES) - 0.3)
    axis.set_ylim(0, 1.2)
    axis.spines[["top", "right"]].set_visible(False)


def _answers(axis, test: tasks.Split, found: Found, which: int) -> None:
    true = int(test.y["answer"][which])
    axis.text(0, 0.95, f"stored: {true}", transform=axis.transAxes, fontsize=9, va="top")
    for line, (regime, color) in enumerate(REGIMES.items()):
        answer = int(found[regime]["answer"][which].argmax())
        verdict = "right" if answer == true else "wrong"
        text = f"{regime}:\n{answer}, {verdict}"
        place = 0.7 - 0.38 * line
        axis.text(
            0, place, text, transform=axis.transAxes, color=color, fontsize=9, va="top"
        )
