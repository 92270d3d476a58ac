"""The demo's figure."""

import pathlib
from typing import Any

import numpy as np

from keras_e2e.diagnostics.gradients import SNR_FLOOR

COLORS = {
    "end to end": "#c0392b",
    "deep supervision": "#7f8c8d",
    "local": "#2471a3",
    "local, then end to end": "#1e8449",
}


def require_matplotlib() -> None:
    """Raises an ImportError, which says what to install, if Matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"The demo draws with Matplotlib, which cannot be imported ({error}). "
            "Install it: pip install 'keras-e2e[demo]'."
        ) from error


def draw(runs: list[Any], settings: Any, path: pathlib.Path) -> None:
    """Draws accuracies over k, and signal and loss over steps.

    Args:
        runs: The demo's runs.
        settings: The demo's settings.
        path: The PNG file to write.

    Raises:
        ImportError: If Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

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
    for regime, color in COLORS.items():
        mine = [r for r in runs if r.regime == regime]
        axis.plot(
            [r.k for r in mine],
            [r.accuracy for r in mine],
            "o-" if regime != "end to end" else "s-",
            color=color,
            label=regime,
            zorder=3 if regime == "end to end" else 2,
        )
    axis.axhline(0.5, color="black", lw=0.8, ls=":")
    axis.text(settings.k[0], 0.507, "chance", fontsize=8)
    axis.set_xticks(settings.k)
    axis.set_ylim(0.45, 1.01)
    axis.set_xlabel("k, images in a tuple")
    axis.set_title("Test accuracy of the parity", fontsize=11)
    axis.legend(fontsize=8, loc="center left")


def _signals(axis, runs, settings) -> None:
    shades = np.linspace(0.0, 1.0, len(settings.k))
    for k, shade in zip(settings.k, shades, strict=True):
        for run in runs:
            if run.k == k and run.regime == "end to end":
                color = (0.15 + 0.6 * shade, 0.2, 0.75 - 0.6 * shade)
                axis.plot(run.steps, run.snrs, ".-", color=color, label=f"k={k}")
    axis.axhspan(-0.01, SNR_FLOOR, color="black", alpha=0.07, lw=0)
    axis.text(0, SNR_FLOOR * 1.1, "below: taken for noise", fontsize=8)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(-0.01, None)
    axis.set_xlabel("step")
    axis.set_title("End to end: gradient SNR of the encoder", fontsize=11)
    axis.legend(fontsize=8)


def _losses(axis, runs, settings) -> None:
    k = settings.k[-1]
    for run in runs:
        if run.k == k:
            color = COLORS[run.regime]
            style = "--" if run.regime == "local" else "-"
            axis.plot(run.steps, run.losses, style, color=color, label=run.regime)
            if run.switch is not None:
                axis.axvline(run.switch, color=color, lw=0.8, ls="--")
                axis.text(run.switch, 0.02, " switch", fontsize=8, color=color)
    axis.set_ylim(0.0, None)
    axis.set_xlabel("step")
    axis.set_title(f"Task loss, k={k}", fontsize=11)
