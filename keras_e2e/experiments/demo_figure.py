"""The demo's figure."""

import pathlib
from typing import Any

import numpy as np

from keras_e2e.diagnostics.verdicts import SNR_FLOOR

COLOURS = {
    "end to end": "#c0392b",
    "deep supervision": "#7f8c8d",
    "local": "#2471a3",
    "local, then end to end": "#1e8449",
}


def draw(runs: list[Any], settings: Any, path: pathlib.Path) -> None:
    """Draws accuracies over k, and signal and loss over steps.

    Args:
        runs: the demo's runs.
        settings: the demo's settings.
        path: the PNG file to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The demo draws with matplotlib: pip install keras-e2e[demo]."
        ) from error
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    accuracy, signal, loss = figure.subplots(1, 3)
    _accuracies(accuracy, runs, settings)
    _signals(signal, runs, settings)
    _losses(loss, runs, settings)
    for axis in (accuracy, signal, loss):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)


def _accuracies(axis, runs, settings) -> None:
    for regime, colour in COLOURS.items():
        mine = [r for r in runs if r.regime == regime]
        axis.plot(
            [r.k for r in mine],
            [r.accuracy for r in mine],
            "o-" if regime != "end to end" else "s-",
            color=colour,
            label=regime,
            zorder=3 if regime == "end to end" else 2,
        )
    axis.axhline(0.5, color="black", lw=0.8, ls=":")
    axis.text(settings.sizes[0], 0.507, "chance", fontsize=8)
    axis.set_xticks(settings.sizes)
    axis.set_ylim(0.45, 1.01)
    axis.set_xlabel("k, images in a tuple")
    axis.set_title("Test accuracy of the parity", fontsize=11)
    axis.legend(fontsize=8, loc="center left")


def _signals(axis, runs, settings) -> None:
    shades = np.linspace(0.0, 1.0, len(settings.sizes))
    for k, shade in zip(settings.sizes, shades, strict=True):
        for run in runs:
            if run.k == k and run.regime == "end to end":
                colour = (0.15 + 0.6 * shade, 0.2, 0.75 - 0.6 * shade)
                axis.plot(run.steps, run.snrs, ".-", color=colour, label=f"k={k}")
    axis.axhspan(-0.01, SNR_FLOOR, color="black", alpha=0.07, lw=0)
    axis.text(0, SNR_FLOOR * 1.1, "below: taken for noise", fontsize=8)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(-0.01, None)
    axis.set_xlabel("step")
    axis.set_title("End to end: gradient SNR of the encoder", fontsize=11)
    axis.legend(fontsize=8)


def _losses(axis, runs, settings) -> None:
    k = settings.sizes[-1]
    for run in runs:
        if run.k == k:
            colour = COLOURS[run.regime]
            style = "--" if run.regime == "local" else "-"
            axis.plot(run.steps, run.losses, style, color=colour, label=run.regime)
            if run.switch is not None:
                axis.axvline(run.switch, color=colour, lw=0.8, ls="--")
                axis.text(run.switch, 0.02, " switch", fontsize=8, color=colour)
    axis.set_ylim(0.0, None)
    axis.set_xlabel("step")
    axis.set_title(f"Task loss, k={k}", fontsize=11)
