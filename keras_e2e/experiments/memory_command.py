"""The command `keras-e2e memory`: its flags, and the estimate that it prints."""

import json

from absl import flags

from keras_e2e.experiments import saved_model
from keras_e2e.experiments.command import Command, CommandError

# As `modularize` has it, which is not imported for a flag's help.
BALANCES = ("memory", "parameters", "time")


def define_flags() -> flags.FlagValues:
    """The flags of the command; none is parsed yet."""
    own = flags.FlagValues()
    flags.DEFINE_integer(
        "batch_size", 32, "Examples in a batch.", lower_bound=1, flag_values=own
    )
    flags.DEFINE_list(
        "modules",
        [],
        "Numbers of modules to split the model into; those that it has, or 2, 4 and 8, if "
        "none is given.",
        flag_values=own,
    )
    flags.DEFINE_enum(
        "balance", BALANCES[0], BALANCES, "What the modules have alike.", flag_values=own
    )
    flags.DEFINE_list(
        "input_shape",
        [],
        "Shape of one example, for a model that leaves sizes open.",
        flag_values=own,
    )
    flags.DEFINE_bool("json", False, "Print all of it as JSON, in bytes.", flag_values=own)
    return own


def _run(values: flags.FlagValues, words: list[str]) -> int:
    modules = _numbers("modules", values.modules, 2, "--modules=4,8")
    shape = _numbers("input_shape", values.input_shape, 1, "--input_shape=224,224,3")
    path = saved_model.check_path(words[0])
    model = saved_model.load(
        path, compile=False, instead="keras_e2e.estimate_memory(model)"
    )
    from keras_e2e.models.memory import estimate_memory

    try:
        found = estimate_memory(
            model,
            batch_size=values.batch_size if values["batch_size"].present else None,
            modules=modules or None,
            balance=values.balance,
            input_shape=tuple(shape) or None,
        )
    except (RuntimeError, ValueError) as error:
        raise CommandError(str(error)) from error
    print(json.dumps(found.to_dict(), indent=2) if values.json else found)
    return 0


def _numbers(flag: str, given: list[str], least: int, example: str) -> list[int]:
    """The numbers of a flag that takes several."""
    found = [int(n) if n.strip().isdecimal() else 0 for n in given]
    if found and min(found) < least:
        raise CommandError(
            f"--{flag}={','.join(given)}: expected numbers from {least} on, as in "
            f"{example}."
        )
    return found


MEMORY = Command(
    "memory",
    "MODEL.keras [flags]",
    "Estimates the memory of training a saved model, whole and in modules.",
    "Estimates the memory of a training step beside the weights: end to end, and trained\n"
    "locally as so many modules. Nothing is run.",
    define_flags,
    _run,
    saved_model.word("keras-e2e memory model.keras"),
)
