"""The command `keras-e2e demo`: what it runs, and its flags."""

from typing import Any

from absl import flags

from keras_e2e.experiments.command import Command, CommandError
from keras_e2e.experiments.demo_settings import Settings
from keras_e2e.experiments.limits.names import DATASETS


def define_flags() -> flags.FlagValues:
    """The flags of the demo, one for each field of `Settings`; none is parsed yet."""
    own, default = flags.FlagValues(), Settings()
    for name, least, meaning in (
        ("epochs", 2, "Epochs of each run; one run changes its mode after half of them."),
        ("tuples", 128, "Training tuples."),
        ("batch_size", 1, "Tuples in a batch."),
        (
            "update_freq",
            1,
            "Steps from one measurement to the next; steps run in fives, of which the "
            "last is measured.",
        ),
        ("seed", 0, "Seed of the split, the weights and the batches."),
    ):
        number = getattr(default, name)
        flags.DEFINE_integer(name, number, meaning, lower_bound=least, flag_values=own)
    flags.DEFINE_enum("data", default.data, DATASETS, "Images to use.", flag_values=own)
    flags.DEFINE_list("k", [*map(str, default.k)], "Sizes of the tuples.", flag_values=own)
    flags.DEFINE_float(
        "learning_rate",
        default.learning_rate,
        "Learning rate of Adam.",
        lower_bound=0.0,
        flag_values=own,
    )
    flags.DEFINE_bool("jit", default.jit, "Compile the steps with XLA.", flag_values=own)
    flags.DEFINE_string(
        "output_dir", default.output_dir, "Folder for logs and figure.", flag_values=own
    )
    return own


def settings_of(values: flags.FlagValues) -> Settings:
    """The settings that the flags ask for.

    Raises:
        CommandError: If `--k` is not a list of positive integers.
    """
    sizes = [int(k) if k.strip().isdecimal() else 0 for k in values.k]
    if not sizes or min(sizes) < 1:
        raise CommandError(
            f"--k={','.join(values.k)}: expected numbers from 1 on, as in --k=1,4."
        )
    found: dict[str, Any] = {name: values[name].value for name in Settings._fields}
    return Settings(**{**found, "k": tuple(sizes)})


def _run(values: flags.FlagValues, words: list[str]) -> int:
    settings = settings_of(values)
    from keras_e2e.experiments import demo

    try:
        demo.run(settings)
    except (ImportError, OSError) as error:
        raise CommandError(str(error)) from error
    return 0


DEMO = Command(
    "demo",
    "[flags]",
    "Shows on tuples of digits where end-to-end training breaks down, and what helps.",
    "Trains the k-tuple parity task end to end, under deep supervision, locally, and\n"
    "locally then end to end, by plain model.fit; prints test accuracies and verdicts;\n"
    "writes TensorBoard logs, a figure and the numbers below --output_dir.",
    define_flags,
    _run,
)
