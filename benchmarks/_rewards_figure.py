"""The figure of `rewards_digits.py`: returns by regime, and the signal the encoder gets."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

# Regime and labeled images: its name, and a color that the color-blind can tell apart.
SHOWN = {
    ("end_to_end", 0): ("end to end, by reward alone", "#d55e00"),
    ("deep_supervision", 10): ("deep supervision, 10 labeled images", "#0072b2"),
    ("deep_supervision", None): ("deep supervision, all labeled", "#009e73"),
}
SIZES = {1: "#56b4e9", 2: "#cc79a7", 3: "#d55e00"}
SMOOTHED = 5


def draw(records: list[dict], num_envs: int, path: pathlib.Path) -> None:
    """Draws a line for each seed.

    Args:
        records: The runs, all of one length.
        num_envs: How many environment steps a rollout has.
        path: The PNG file to write.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    largest = max(record["k"] for record in records)
    for (regime, labels), (name, color) in SHOWN.items():
        runs = [
            r["curve"]
            for r in records
            if (r["k"], r["regime"], r["labels"]) == (largest, regime, labels)
        ]
        _lines(left, runs, num_envs, name, color)
    left.axhline(0.75, color="#888888", linestyle="--", linewidth=1)
    left.set_yticks(np.arange(0.4, 1.05, 0.1))
    left.set(ylabel=f"mean return (k={largest})", ylim=(0.35, 1.2))
    for k, color in SIZES.items():
        runs = [
            _smooth(r["numbers"]["gradient_snr"]["symbols"])
            for r in records
            if (r["k"], r["regime"]) == (k, "end_to_end")
        ]
        _lines(right, runs, num_envs, f"k={k}", color)
    right.set_ylabel("gradient SNR of the encoder, end to end")
    right.set_yscale("symlog", linthresh=0.01)
    right.set_ylim(bottom=0)
    places = {left: "upper left", right: "upper right"}
    for axes in places:
        axes.set_xlabel("environment steps")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc=places[axes])
    figure.savefig(path, dpi=100)


def _lines(axes, runs, num_envs, name, color) -> None:
    for number, values in enumerate(runs):
        known = [np.nan if value is None else value for value in values]
        steps = num_envs * np.arange(1, len(known) + 1)
        label = None if number else name
        axes.plot(steps, known, color=color, label=label, linewidth=1, alpha=0.6)


def _smooth(values: list) -> list[float]:
    """The median of five measurements: single ones scatter."""
    known = [np.nan if value is None else value for value in values]
    middle = SMOOTHED // 2
    return [
        float(np.nanmedian(known[max(0, i - middle) : i + middle + 1]))
        for i in range(len(known))
    ]
