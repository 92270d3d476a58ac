"""What `compatibility.py` has done in processes of their own, each of which reports."""

import importlib
import pathlib
import pickle
import warnings

import keras
from _compatibility_case import Case
from _compatibility_checks import Checks, Report, predicted
from _compatibility_outcome import demand, outcome, same
from _compatibility_report import RUNNING


def load(folder: pathlib.Path, name: str) -> None:
    """Loads a model, and raises `Wrong` if it predicts something else than was saved."""
    x, expected = pickle.loads((folder / "expected").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer was saved before its first step
        model = keras.models.load_model(folder / f"{name}.keras")
    found = predicted(model, x)
    demand(same(expected[name], found), f"the {name} model, loaded, predicts another value")


def cases_of(group: str) -> dict[str, Case]:
    """The cases of a group by name."""
    return importlib.import_module(f"_compatibility_{group}").CASES


def send_names(report: Report, group: str) -> None:
    """Reports the names of the cases of a group."""
    report("names", {"value": list(cases_of(group))})


def send_checks(
    report: Report, group: str, name: str, checks: list[str], folder: str
) -> None:
    """Makes checks of a case, of which each is reported."""
    keras.config.disable_traceback_filtering()
    Checks(cases_of(group)[name], pathlib.Path(folder), checks).run(report)


def send_loaded(report: Report, group: str, name: str, folder: str) -> None:
    """Loads a model that `saved` wrote, and reports what came out."""
    cases_of(group)  # registers classes
    report(name, {"result": RUNNING})
    report(name, outcome(lambda: load(pathlib.Path(folder), name)))
