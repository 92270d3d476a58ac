"""The demo: where end-to-end training breaks down, and what repairs it."""

import json
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from keras_e2e.callbacks import ModuleTensorBoard, TrainingModeScheduler
from keras_e2e.diagnostics import Verdict
from keras_e2e.experiments import tasks
from keras_e2e.experiments.demo_figure import draw, require_matplotlib
from keras_e2e.experiments.demo_settings import Settings
from keras_e2e.models.modularize import modularize
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.objectives import IntermediateTarget

MODULE = "symbols"
TEST_TUPLES = 4000
STEPS_PER_EXECUTION = 5
ENCODERS = {"digits": (128, 64), "fashion_mnist": (256, 128)}


Schedules = dict[str, dict[int, TrainingMode | ModeName]]


def regimes(epochs: int) -> Schedules:
    """The schedules that are compared, all with the same number of steps."""
    half = max(1, epochs // 2)
    return {
        "end to end": {0: "end_to_end"},
        "deep supervision": {0: "deep_supervision"},
        "local": {0: "local"},
        "local, then end to end": {0: "local", half: "end_to_end"},
    }


class Run(NamedTuple):
    """One training run and what came of it."""

    k: int
    regime: str
    accuracy: float
    seconds: float
    losses: list[float]
    snrs: list[float]
    steps: list[int]
    switch: int | None
    verdict: Verdict


class _Advance(keras.callbacks.Callback):
    """Moves the progress bar on and shows the accuracy so far."""

    def __init__(self, progress: Progress, task: Any, title: str):
        super().__init__()
        self.progress, self.task, self.title = progress, task, title

    def on_epoch_end(self, epoch, logs=None):
        accuracy = (logs or {}).get("accuracy", float("nan"))
        self.progress.update(
            self.task, advance=1, description=f"{self.title}: training {accuracy:.3f}"
        )


def run(settings: Settings) -> list[Run]:
    """Runs the demo, prints its tables and writes its files.

    Args:
        settings: What to run.

    Returns:
        The runs, in the order in which they were made.

    Raises:
        OSError: If `output_dir` cannot be written.
        ImportError: If scikit-learn or Matplotlib is missing.
    """
    require_matplotlib()  # not only once everything is trained
    console = Console()
    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    console.print(
        f"k-tuples of {settings.data}, label: parity of the count of odd classes. "
        f"{settings.tuples:,} training tuples, {settings.epochs} epochs, Adam "
        f"{settings.learning_rate:g}, seed {settings.seed}."
    )
    runs = train_all(settings, regimes(settings.epochs), console)
    _print_accuracies(console, settings, runs)
    _print_verdicts(console, runs)
    draw(runs, settings, folder / "demo.png")
    _write_numbers(runs, settings, folder / "demo.json")
    console.print(
        f"\nFigure: {folder / 'demo.png'}. Watch the modules: "
        f"tensorboard --logdir {folder / 'logs'}"
    )
    return runs


def train_all(settings: Settings, schedules: Schedules, console: Console) -> list[Run]:
    """Trains all regimes for each k, and shows progress: a bar, or lines.

    Args:
        settings: What to run.
        schedules: Dict from the name of a regime to its training mode by epoch.
        console: Where progress is shown.
    """
    if settings.data == "digits":  # Fashion-MNIST comes with a test set of its own
        images = tasks.load_digits(settings.seed)
    else:
        images = tasks.load(settings.data)
    bar = Progress(
        TextColumn("{task.description:48}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} epochs"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    runs: list[Run] = []
    with bar as progress:
        total = len(settings.k) * len(schedules) * settings.epochs
        task = progress.add_task("", total=total)
        for k in settings.k:
            for found in _train_regimes(settings, k, schedules, images, progress, task):
                runs.append(found)
                if not console.is_terminal:
                    console.print(
                        f"k={k} {found.regime}: test {found.accuracy:.3f} after "
                        f"{found.seconds:.0f} s",
                        highlight=False,
                    )
    return runs


def _train_regimes(
    settings: Settings,
    k: int,
    schedules: Schedules,
    images: Any,
    progress: Progress,
    task: Any,
) -> Iterator[Run]:
    """All regimes for one k, from the same weights.

    The model keeps one compiled step for each mode, so the regimes share them.
    """
    train, test = images
    data = tasks.parity_tuples(train[0], train[1], k, settings.tuples, settings.seed)
    held_out = tasks.parity_tuples(test[0], test[1], k, TEST_TUPLES, settings.seed + 1)
    model = _model(settings, k, train[0].shape[-1])
    variables = [*model.weights, *model.optimizer.variables]
    start = [v.numpy() for v in variables]
    for regime, schedule in schedules.items():
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(settings.seed)
        title = f"k={k} {regime}"
        progress.update(task, description=title)
        advance = _Advance(progress, task, title)
        yield _train(settings, model, k, regime, schedule, data, held_out, advance)


def _model(settings: Settings, k: int, width: int) -> keras.Model:
    """A compiled modular model, its optimizer built."""
    base = tasks.parity_model(k, width, encoder=ENCODERS[settings.data], seed=settings.seed)
    model = modularize(base, {MODULE: IntermediateTarget()})
    model.compile(
        keras.optimizers.Adam(settings.learning_rate),
        "binary_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=settings.jit,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _train(
    settings: Settings,
    model: keras.Model,
    k: int,
    regime: str,
    schedule: dict[int, TrainingMode | ModeName],
    data: tasks.Tuples,
    held_out: tasks.Tuples,
    advance: _Advance,
) -> Run:
    """One training run, and what came of it."""
    name = f"k{k}_{regime.replace(', ', '_').replace(' ', '_')}"
    logs = pathlib.Path(settings.output_dir, "logs", name)
    shutil.rmtree(logs, ignore_errors=True)  # of the demo before
    board = ModuleTensorBoard(str(logs), update_freq=settings.update_freq)
    begin = time.perf_counter()
    model.fit(
        data.x,
        {"parity": data.parity, MODULE: data.symbols},
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        verbose=0,
        callbacks=[TrainingModeScheduler(schedule), board, advance],
    )
    seconds = time.perf_counter() - begin
    accuracy = model.evaluate(
        held_out.x, held_out.parity, batch_size=1000, verbose=0, return_dict=True
    )["accuracy"]
    steps_per_epoch = -(-settings.tuples // settings.batch_size)
    changes = [epoch for epoch in schedule if epoch > 0]
    return Run(
        k=k,
        regime=regime,
        accuracy=float(accuracy),
        seconds=seconds,
        losses=list(board.history["loss"]["parity"]),
        snrs=list(board.history["gradient_snr"][MODULE]),
        steps=list(board.steps),
        switch=changes[0] * steps_per_epoch if changes else None,
        verdict=board.verdicts()[MODULE],
    )


def _print_accuracies(console: Console, settings: Settings, runs: list[Run]) -> None:
    table = Table(
        title=f"Test accuracy of the parity ({TEST_TUPLES:,} tuples of unseen images; "
        "chance is 0.5)",
        title_justify="left",
    )
    table.add_column("training")
    table.add_column("labels used")
    for k in settings.k:
        table.add_column(f"k={k}", justify="right")
    for regime in regimes(settings.epochs):
        cells = [f"{r.accuracy:.3f}" for r in runs if r.regime == regime]
        used = "parity" if regime == "end to end" else f"parity, {MODULE}"
        table.add_row(regime, used, *cells)
    console.print(table)


def _print_verdicts(console: Console, runs: list[Run]) -> None:
    console.print(
        f"\nWhat end-to-end training made of the module {MODULE!r} (the same is in "
        "TensorBoard):"
    )
    lines = Table.grid(padding=(0, 1))
    for run in runs:
        if run.regime != "end to end":
            continue
        lines.add_row(f"  k={run.k} (test {run.accuracy:.3f})", run.verdict.message)
        if run.verdict.alarm:
            others = {r.regime: r.accuracy for r in runs if r.k == run.k}
            found = others["local"]
            lines.add_row("", f"Trained on labels of its own: test {found:.3f}.")
    console.print(lines, highlight=False)
    console.print(
        "One seed. Whether end-to-end training breaks down differs from seed to seed: "
        "repeat with --seed."
    )


def _write_numbers(runs: list[Run], settings: Settings, path: pathlib.Path) -> None:
    clean = [
        {
            **r._asdict(),
            "snrs": [None if np.isnan(s) else s for s in r.snrs],
            "verdict": r.verdict.state,
        }
        for r in runs
    ]
    numbers = {"settings": settings._asdict(), "runs": clean}
    path.write_text(json.dumps(numbers, indent=1))
