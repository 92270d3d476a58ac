"""The command `keras-e2e diagnose`: its flags, and the verdicts that it prints."""

import contextlib
import json
import os
import pathlib
import sys
from typing import Any

from absl import flags

from keras_e2e.experiments import saved_model
from keras_e2e.experiments.command import ALARM, Command, CommandError
from keras_e2e.experiments.terminal import note

# As `diagnose` has them, which is not imported for a flag's help.
MODES = ("end_to_end", "local", "deep_supervision", "sequential", "mixed")
IN_PYTHON = "keras_e2e.diagnose(model, x, y)"
PAGE, NUMBERS = "diagnosis.html", "diagnosis.json"


def define_flags() -> flags.FlagValues:
    """The flags of the command; none is parsed yet."""
    own = flags.FlagValues()
    for name, default, least, meaning in (
        ("steps", 300, 1, "Training steps."),
        (
            "update_freq",
            5,
            1,
            "Steps from one measurement to the next; a verdict takes ten.",
        ),
        ("batch_size", 32, 1, "Examples in a batch."),
        ("seed", 0, 0, "Seed of the order of the examples, dropout and the like."),
    ):
        flags.DEFINE_integer(name, default, meaning, lower_bound=least, flag_values=own)
    for name, meaning in (
        (
            "data",
            "The .npz file of the training data, which numpy.savez(file, x=x, y=y) writes: "
            "arrays x, y and perhaps sample_weight. Of several inputs or outputs: x/NAME, "
            "y/NAME. Required.",
        ),
        ("loss", "Loss to train with, as in --loss=mse, in place of that of the model."),
        ("optimizer", "Optimizer that goes with --loss; adam if none is given."),
        (
            "output_dir",
            f"Folder to write {PAGE} (verdicts and heat maps) and {NUMBERS} into.",
        ),
    ):
        flags.DEFINE_string(name, None, meaning, flag_values=own)
    flags.DEFINE_list(
        "boundaries",
        None,
        "Layers that each end a module, or a number of cut points. Up to three are chosen "
        "if none is given.",
        flag_values=own,
    )
    flags.DEFINE_enum(
        "mode", None, MODES, "Mode to train a modular model in.", flag_values=own
    )
    flags.DEFINE_bool("json", False, "Print all of it as JSON.", flag_values=own)
    flags.DEFINE_bool(
        "fail_on_alarm",
        False,
        f"Exit with status {ALARM} if a module has an alarm: starved, vanishing, ...",
        flag_values=own,
    )
    return own


def _run(values: flags.FlagValues, words: list[str]) -> int:
    _check(values)
    path = saved_model.check_path(words[0])
    from keras_e2e.experiments import npz_data

    data = npz_data.read(values.data)
    folder = _folder(values.output_dir)
    note(f"Loading {path}.")
    model = saved_model.load(path, compile=values.loss is None, instead=IN_PYTHON)
    _compile(model, path, values)
    found = _diagnosed(model, data, values)
    if folder is not None:
        _write(found, model.name, folder)
    print(json.dumps(found.to_dict(), indent=2) if values.json else found)
    if folder is not None:
        note(f"Written: {folder / PAGE}, {folder / NUMBERS}.")
    alarm = any(verdict.alarm for verdict in found.verdicts.values())
    return ALARM if alarm and values.fail_on_alarm else 0


def _check(values: flags.FlagValues) -> None:
    """Raises CommandError for flags that are wrong whatever the model is."""
    if values.data is None:
        raise CommandError(
            "expected the training data, found no --data. Write it by "
            "numpy.savez('data.npz', x=x, y=y) and give --data=data.npz."
        )
    if not os.path.isfile(values.data):
        raise CommandError(
            f"--data={values.data}: there is no such file. Give what numpy.savez wrote."
        )
    if values.optimizer is not None and values.loss is None:
        raise CommandError(
            f"--optimizer={values.optimizer} goes with --loss, which is missing. Give it, "
            "as in --loss=mse, or leave --optimizer out to train as the model was compiled."
        )


def _folder(given: str | None) -> pathlib.Path | None:
    """The folder to write to; made, and what writing takes found, before training."""
    if given is None:
        return None
    try:
        import plotly  # noqa: F401

        folder = pathlib.Path(given)
        folder.mkdir(parents=True, exist_ok=True)
    except ImportError as error:
        raise CommandError(
            "--output_dir needs Plotly, which is not installed: pip install "
            "'keras-e2e[report]'."
        ) from error
    except OSError as error:
        raise CommandError(
            f"--output_dir={given}: no such folder can be made ({error.strerror}). Give "
            "another one."
        ) from error
    return folder


def _compile(model: Any, path: str, values: flags.FlagValues) -> None:
    """Compiles a model as asked; raises CommandError if it is not compiled at all."""
    if values.loss is not None:
        import keras

        optimizer = values.optimizer or "adam"
        try:
            model.compile(keras.optimizers.get(optimizer), keras.losses.get(values.loss))
        except (TypeError, ValueError) as error:
            raise CommandError(
                f"--loss={values.loss} --optimizer={optimizer}: expected names that Keras "
                f"knows, as in --loss=mse --optimizer=adam: {error}"
            ) from error
    elif not model.compiled:
        raise CommandError(
            f"{path} is not compiled, so it says of no loss to train with. Give one, as in "
            "--loss=sparse_categorical_crossentropy --optimizer=adam, or call "
            "model.compile(...) before model.save."
        )


def _diagnosed(model: Any, data: dict[str, Any], values: flags.FlagValues) -> Any:
    import keras

    from keras_e2e.models.diagnose import diagnose

    ends = [end.strip() for end in values.boundaries or []]
    number = int(ends[0]) if len(ends) == 1 and ends[0].isdecimal() else None
    keras.utils.set_random_seed(values.seed)
    try:
        # What is printed on the way is none of the result.
        with contextlib.redirect_stdout(sys.stderr):
            return diagnose(
                model,
                **data,
                steps=values.steps,
                update_freq=values.update_freq,
                batch_size=values.batch_size,
                boundaries=(ends or None) if number is None else number,
                mode=values.mode,
            )
    except (TypeError, ValueError) as error:
        raise CommandError(str(error).removeprefix("diagnose: ")) from error


def _write(found: Any, name: str, folder: pathlib.Path) -> None:
    """Writes the page and the numbers."""
    import html

    (folder / NUMBERS).write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    title = f"Diagnosis of {html.escape(name)}"
    figure = found.plot().to_html(full_html=False, include_plotlyjs=True)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.2em .6em}"
        "table{display:block;overflow-x:auto}</style>"
        f"<h1>{title}</h1>{found._repr_html_()}{figure}</html>\n"
    )
    (folder / PAGE).write_text(page, encoding="utf-8")


DIAGNOSE = Command(
    "diagnose",
    "MODEL.keras --data=FILE.npz [flags]",
    "Trains a saved model for a few hundred steps and judges each of its modules.",
    "Trains a saved model for a few hundred steps and judges each of its modules, as\n"
    "keras_e2e.diagnose does. The file of the model stays as it is. Verdicts go to the\n"
    "standard output, progress to the standard error stream.",
    define_flags,
    _run,
    saved_model.word("keras-e2e diagnose model.keras --data=data.npz"),
)
