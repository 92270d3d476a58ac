"""Into how many modules can a network be cut? Test error over K for local methods.

A small residual network (8 blocks, or 16) on a part of Fashion-MNIST, cut at ends of blocks
into K = 1, 2, 4, 8 (or 16) modules and trained with the local methods of the literature,
all with the same number of steps, the same optimizer and the same data. K = 1 is end to
end training.
The published numbers are for ResNet-32 on CIFAR-10: compare the shape of the curves, not
their heights.

    python benchmarks/k_sweep.py [--seeds=3] [--methods="DGL,InfoPro"] [--epochs=...]
        [--blocks=16 --k=16 --figure=FILE]

Every run goes to the JSON file at once, and what is in there is not run again; `--fresh`
forgets it all.
"""

import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
from absl import app, flags
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e
from keras_e2e.experiments import tasks
from keras_e2e.objectives.heads.model_based import AugLocal, MomentumAuxiliary

FLAGS = flags.FLAGS

BATCH = 128
LEARNING_RATE = 2e-3
CHANNELS = (16, 16, 24, 24, 24, 32, 32, 32)  # of the residual blocks
CLASSES = 10
PIXEL_MEAN, PIXEL_STD = 0.286, 0.353
END_TO_END, END_TO_END_COLOR, END_TO_END_REPORTED = "end to end", "#c0392b", 7.37
REPORTED_K = (2, 4, 8, 16)


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_flags(8, "Epochs of each run.")
    flags.adopt_module_key_flags(_shared)
    flags.DEFINE_integer("images", 6000, "Training images, the first of the data set.")
    flags.DEFINE_integer("test_images", 10000, "Test images, the first of the test set.")
    flags.DEFINE_list("k", ["2", "4", "8"], "Numbers of modules, beside 1.")
    flags.DEFINE_integer("blocks", 8, "How many residual blocks: 8 or a multiple.")
    flags.DEFINE_string("figure", "docs/k_sweep.png", "The figure.")


class Method(NamedTuple):
    """One way to train the modules.

    Attributes:
        labels: what is used of the data.
        objective: makes the objective of one boundary.
        color: in the figure.
        mode: the training mode.
        context: whether each module but the first is given the encoded image, too.
        reported: test errors in % by K that were published for ResNet-32 on CIFAR-10.
    """

    labels: str
    objective: Callable[[], Any]
    color: str
    mode: str = "local"
    context: bool = False
    reported: dict[int, float] = {}  # noqa: RUF012


def prediction(head: Any) -> Callable[[], Any]:
    """Makes objectives that predict the class through a head."""
    return lambda: e2e.objectives.Prediction(head=head() if callable(head) else head)


def man_plus_plus() -> MomentumAuxiliary:
    """Makes the momentum auxiliary network whose averaged block has a learned scale."""
    return MomentumAuxiliary(learnable_scale=True)


def transport(head: str) -> Callable[[], Any]:
    """Makes objectives that predict the class, with transport regularization."""
    return lambda: e2e.objectives.Transport(prediction(head)())


# Reported: Wang et al. 2021 (InfoPro, arXiv 2101.10832), which also has end to end,
# DGL and linear greedy; MAN (Su et al. 2024) for itself.
METHODS = {
    "linear greedy": Method(
        "class",
        prediction("gap_linear"),
        "#b7950b",
        reported={2: 10.30, 4: 16.07, 8: 21.19, 16: 24.59},
    ),
    "DGL": Method(
        "class",
        prediction("conv_mlp"),
        "#2471a3",
        reported={2: 8.69, 4: 11.48, 8: 14.17, 16: 16.21},
    ),
    "InfoPro": Method(
        "class, image",
        lambda: e2e.objectives.InfoPro(),
        "#1e8449",
        reported={2: 7.76, 4: 8.58, 8: 11.13, 16: 12.75},
    ),
    "AugLocal": Method("class", prediction(AugLocal), "#8e44ad"),
    "MAN": Method("class", prediction(MomentumAuxiliary), "#d35400", reported={16: 9.11}),
    "MAN++": Method("class", prediction(man_plus_plus), "#873600"),
    "TRGL": Method("class", transport("conv_mlp"), "#117864"),
    "FBA": Method("class", lambda: e2e.objectives.FeatureBank(head="mlp"), "#7d6608"),
    "ContSup": Method("class, image", prediction("conv_mlp"), "#1f618d", context=True),
    "deep supervision": Method(
        "class", prediction("conv_mlp"), "#7f8c8d", mode="deep_supervision"
    ),
}


def conv(filters: int, size: int = 3, strides: int = 1) -> keras.layers.Conv2D:
    """A convolution in front of a BatchNormalization."""
    return keras.layers.Conv2D(
        filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal"
    )


def norm() -> keras.layers.BatchNormalization:
    """What stands behind a convolution."""
    return keras.layers.BatchNormalization(momentum=0.9)


def supplied(x: keras.KerasTensor, image: keras.KerasTensor) -> keras.KerasTensor:
    """Adds the encoded image to what a module is given.

    Context supply (ContSup[E], Yu et al. 2023), with the encoder of its authors' code.
    """
    y = image
    for filters in (12, x.shape[-1]):
        y = keras.layers.ReLU()(norm()(conv(filters)(y)))
    y = keras.layers.AveragePooling2D(image.shape[1] // x.shape[1])(y)
    return keras.layers.Add()([x, y])


def resnet(context: Sequence[str] = (), blocks: int = 8) -> keras.Model:
    """The stock model: stem, residual blocks (named `block_N`), classifier.

    Its input is the raw image. The stem halves height and width, and so does each block
    that has more channels than the one before.

    Args:
        context: names of the blocks behind which the encoded image is added.
        blocks: how many there are; from 16 on several of the same width follow each other.
    """
    x = image = keras.Input((28, 28, 1), name="image")
    x = scaled = keras.layers.Rescaling(1 / PIXEL_STD, -PIXEL_MEAN / PIXEL_STD)(x)
    x = keras.layers.ReLU()(norm()(conv(CHANNELS[0], strides=2)(x)))
    widths = [width for width in CHANNELS for _ in range(blocks // len(CHANNELS))]
    for number, filters in enumerate(widths, 1):
        strides = 1 if filters == x.shape[-1] else 2
        y = keras.layers.ReLU()(norm()(conv(filters, strides=strides)(x)))
        y = norm()(conv(filters)(y))
        if strides > 1:
            x = norm()(conv(filters, 1, strides)(x))
        name = f"block_{number}"
        x = keras.layers.ReLU(name=name)(keras.layers.Add()([x, y]))
        if name in context:
            x = supplied(x, scaled)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="digit")(x))


def make(
    method: str, k: int, steps: int, jit: bool = False, blocks: int = 8
) -> keras.Model:
    """The compiled model of a method, cut into k modules.

    Args:
        method: a key of `METHODS`, or end to end.
        k: number of modules, which divides the number of blocks.
        steps: of the whole run; the learning rate goes down to 0 over them.
        jit: whether to compile with XLA.
        blocks: how many residual blocks there are.
    """
    if k > 1:
        how = METHODS[method]
        each = blocks // k
        ends = [f"block_{n}" for n in range(each, blocks, each)]
        model = resnet(ends if how.context else (), blocks)
        model = e2e.modularize(model, {end: how.objective() for end in ends})
        model.training_mode = how.mode
    else:
        model = resnet(blocks=blocks)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit,
    )
    return model


def errors(runs: list[dict], method: str, k: int) -> list[float]:
    """Test errors at the end, over the seeds."""
    return [r["errors"][-1] for r in runs if (r["method"], r["k"]) == (method, k)]


def report(runs: list[dict], sizes: list[int]) -> tuple[Table, Table]:
    """The table of errors by method and K, and the one of what was published."""
    ours = Table(
        title="Test error in % by number of modules K, mean ± deviation over seeds",
        title_justify="left",
    )
    published = Table(title="Published: ResNet-32 on CIFAR-10", title_justify="left")
    for table, names in (
        (ours, ["labels used", *(f"K={k}" for k in (1, *sizes)), "s/epoch, largest K"]),
        (published, [f"K={k}" for k in (1, *REPORTED_K)]),
    ):
        table.add_column("training")
        for name in names:
            table.add_column(name, justify="left" if "labels" in name else "right")
    for name, how in {END_TO_END: Method("class", None, ""), **METHODS}.items():
        cells = [_shared.spread(errors(runs, name, k)) for k in (1, *sizes)]
        largest = max((r["k"] for r in runs if r["method"] == name), default=0)
        mine = [r for r in runs if (r["method"], r["k"]) == (name, largest)]
        if mine:
            seconds = min(s for r in mine for s in r["seconds"][1:] or r["seconds"])
            ours.add_row(name, how.labels, *cells, f"{seconds:.2f}")
        known = {1: END_TO_END_REPORTED} if name == END_TO_END else how.reported
        if known:
            numbers = (f"{known[k]:.2f}" if k in known else "" for k in (1, *REPORTED_K))
            published.add_row(name, *numbers)
    return ours, published


def draw(runs: list[dict], sizes: list[int], path: pathlib.Path) -> None:
    """Draws our errors over K on the left, the published ones on the right."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    ours, published = figure.subplots(1, 2)
    base = errors(runs, END_TO_END, 1)
    for name, how in METHODS.items():
        found = {1: base, **{k: errors(runs, name, k) for k in sizes}}
        found = {k: values for k, values in found.items() if values}
        if len(found) > 1:
            means = [statistics.mean(v) for v in found.values()]
            bars = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in found.values()]
            ours.errorbar(
                list(found), means, bars, fmt="o-", color=how.color, label=name, capsize=2
            )
        if how.reported:
            points = {1: END_TO_END_REPORTED, **how.reported}
            style = "o-" if len(how.reported) > 1 else "o"
            points = points if len(how.reported) > 1 else how.reported
            published.plot(
                list(points), list(points.values()), style, color=how.color, label=name
            )
    levels = ((ours, statistics.mean(base)), (published, END_TO_END_REPORTED))
    for axis, level in levels:
        axis.axhline(level, color=END_TO_END_COLOR, ls="--", lw=1.2, label=END_TO_END)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("K, number of modules")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="upper left")
    for axis, ks in ((ours, (1, *sizes)), (published, (1, *REPORTED_K))):
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
    ours.set_ylabel("test error in %")
    ours.set_title("Here: small residual network, Fashion-MNIST", fontsize=11)
    published.set_title("Published: ResNet-32, CIFAR-10", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(argv):
    """Runs what is not in the JSON file yet, prints the table and draws the figure."""
    del argv
    methods, deadline = _shared.chosen(METHODS), _shared.deadline()
    sizes = sorted(int(k) for k in FLAGS.k)
    blocks = FLAGS.blocks
    if blocks % len(CHANNELS) or any(k < 2 or blocks % k for k in sizes):
        raise app.UsageError(
            f"--k={FLAGS.k}: each must divide the {blocks} blocks, 8 or a multiple of 8"
        )
    (x, y), (x_test, y_test) = tasks.load_fashion_mnist()
    x, y = x[: FLAGS.images].reshape(-1, 28, 28, 1), y[: FLAGS.images]
    x_test, y_test = x_test.reshape(-1, 28, 28, 1), y_test
    test = (x_test[: FLAGS.test_images], y_test[: FLAGS.test_images])
    steps = FLAGS.epochs * -(-len(y) // BATCH)
    console = Console(width=120)
    console.print(
        f"{len(y):,} training and {len(test[1]):,} test images of Fashion-MNIST, {blocks} "
        f"residual blocks of {CHANNELS[0]} to {CHANNELS[-1]} channels, Adam "
        f"{LEARNING_RATE:g} with cosine decay, batch {BATCH}, random crop and flip, "
        f"{FLAGS.epochs} epochs ({steps} steps) for every run, {FLAGS.seeds} seeds."
    )
    about = {"what": "test error in % after the last epoch, seconds of each epoch"}
    name = f"k_sweep{'_xla' if FLAGS.jit else ''}{'' if blocks == 8 else f'_{blocks}'}.json"
    path = pathlib.Path(FLAGS.output, name)
    results = _shared.Results(path, about, FLAGS.fresh)
    todo = [(END_TO_END, 1), *((m, k) for k in sizes for m in methods)]
    runs, missing = [], 0
    for seed in range(FLAGS.seeds):  # all methods before the next seed
        for method, k in todo:
            run = _shared.train(
                lambda method=method, k=k: make(method, k, steps, FLAGS.jit, blocks),
                lambda seed=seed: _shared.batches(x, y, BATCH, seed, augment=True),
                test,
                FLAGS.epochs,
                results,
                deadline,
                validation_freq=FLAGS.epochs,
                method=method,
                k=k,
                seed=seed,
                images=len(y),
                test_images=len(test[1]),
            )
            if run is None or not run["errors"]:
                missing += 1
                continue
            error, took = run["errors"][-1], sum(run["seconds"])
            console.print(f"seed {seed}, K={k}, {method}: {error:.2f} % ({took:.0f} s)")
            runs.append(run)
    console.print(*report(runs, sizes))
    if missing:
        console.print(f"Out of time: {missing} runs are missing.")
    if any(run["method"] == END_TO_END for run in runs):
        draw(runs, sizes, pathlib.Path(FLAGS.figure))
    console.print(
        "Published: Wang et al. 2021 (InfoPro), and for MAN its own paper (2024), where "
        "end to end has 6.37. Deep supervision, TRGL and ContSup have DGL's "
        "heads. "
        f"Seconds: training only, the least over epochs. JSON: {path}"
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)
