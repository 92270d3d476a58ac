"""The table behind `model.module_summary()`."""

import io
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from keras_e2e.models.memory_estimate import MemoryEstimate
from keras_e2e.models.memory_figures import (
    estimate,
    gradients_wait,
    refuse_backend,
    refuse_strategy,
)
from keras_e2e.models.memory_inputs import input_specs
from keras_e2e.modules.ownership import holder
from keras_e2e.trainers.one_pass import why_one_apply, why_one_pass, why_together
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import count_parameters, unique
from keras_e2e.utils.state import preserve_everything


def print_modules(model: Any, print_fn: Any = None, batch_size: int | None = None) -> None:
    """Prints a table with one line for each module of a modular model.

    Args:
        model: The modular model.
        print_fn: Function that is called with the table as one string. Defaults to
            `None`, which prints to the terminal.
        batch_size: Integer, the batch size to tell the memory for. Defaults to `None`,
            which leaves memory out.
    """
    if not model.modules:
        (print_fn or print)(
            f"Modules of {model.name!r}: known after the first batch, or after "
            "model.examine(x)."
        )
        return
    memory = None if batch_size is None else _memory(model, batch_size)
    title = f"Modules of {model.name!r}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    remat = getattr(model, "remat", None)
    below = []
    if remat:
        below.append(f"Recomputed for their gradients (remat): {', '.join(remat)}")
    if shared := _shared(model):
        below.append(f"Shared: {'; '.join(shared)}")
    table.add_column("#")
    table.add_column("module", no_wrap=True)
    # Beside figures of memory there is room for their number only.
    table.add_column("layers", justify="left" if memory is None else "right")
    table.add_column("objective", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("head", justify="right", no_wrap=True)
    below += _gradients(model)
    if memory is not None:
        below.append(_peaks(model, memory, why_together(model) is not None))
        unit = f"activations\n({memory.unit.name})"
        table.add_column(unit, justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
    table.caption = "\n".join(below) or None
    for number, module in enumerate(model.modules, start=1):
        cells = _cells(module, short=memory is not None)
        table.add_row(str(number), *cells, *_taken(memory, module.name))
    text = io.StringIO()
    console = Console() if print_fn is None else Console(file=text, width=100)
    if memory is not None:
        _fit(table, console)
    console.print(table)
    if print_fn is not None:
        print_fn(text.getvalue().rstrip())


def _fit(table: Table, console: Console) -> None:
    """Leaves out columns that would stand empty for lack of room beside those of memory."""
    unbounded = console.options.update(width=10_000)
    for place in (2, 0):  # the layers, then the number
        if Measurement.get(console, unbounded, table).maximum > console.width:
            del table.columns[place]


def _cells(module: Any, short: bool) -> list[str]:
    """What is said of a module beside its number and memory."""
    layers = [layer.name for layer in module.layers]
    shown = str(len(layers)) if short else ", ".join(layers)
    if len(layers) > 3 and not short:
        shown = f"{layers[0]} and {len(layers) - 1} more"
    head = count_parameters(module.head_variables)
    if module.boundary is None:
        objective = "task loss"
    elif module.objective is None:
        objective = "none"
    else:
        objective = type(module.objective).__name__
    return [
        module.name,
        shown,
        objective,
        f"{module.parameters:,}",
        f"{head:,}" if head else "-",
    ]


def _shared(model: Any) -> list[str]:
    """What is said of the layers that several modules use."""
    owners = {id(v): m.name for m in model.modules for v in m.variables}
    borrowed = unique(v for m in model.modules for v in m.borrowed)
    layers = compat.all_layers(model)
    found: dict[tuple, list[str]] = {}
    for variable in borrowed:
        holding = [x for x in layers if any(v is variable for v in x.weights)]
        named = [x.name for x in holding if x.name in model._shared]
        name = named[0] if named else holder(holding).name
        users = [m.name for m in model.modules if any(v is variable for v in m.borrowed)]
        names = found.setdefault((owners[id(variable)], *users, bool(named)), [])
        if name not in names:
            names.append(name)
    return [_said_of(*key, names=names) for key, names in found.items()]


def _said_of(owner: str, *users_and_named: Any, names: list[str]) -> str:
    """What is said of layers that the same modules use."""
    *users, named = users_and_named
    few = names if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"]
    said = f"{', '.join(few)} {'is' if len(names) == 1 else 'are'} trained by "
    said += f"module {owner}"
    if not named:
        said += f" (the last by default; shared={{{names[0]!r}: ...}} says otherwise)"
    return f"{said}, and used by {', '.join(users)}"


def _memory(model: Any, batch_size: int) -> MemoryEstimate:
    refuse_backend("module_summary(batch_size=...)")
    refuse_strategy("module_summary(batch_size=...)", model)
    with preserve_everything(model):
        inputs, size = input_specs(model, batch_size, None)
        return estimate(model, [model], inputs, size, gradients_wait(model))


def _gradients(model: Any) -> list[str]:
    """Where the gradients of a step are taken and applied."""
    mode = model.training_mode
    said = f"In mode '{mode}' gradients are taken"
    if mode.name == "sequential":
        return [f"{said} of one module; those before it keep nothing."]
    if (reason := why_one_pass(model)) is not None:
        return [f"{said} at the end of the step: {reason}."]
    if model.run_eagerly:
        return [
            f"{said} at each boundary that stops them, but run eagerly: TensorFlow keeps "
            "all activations to the end of the step."
        ]
    said += " at each boundary that stops them"
    if (reason := why_one_apply(model)) is not None:
        return [f"{said}, and applied at the end of the step: {reason}."]
    if getattr(model, "optimizer", None) is None:
        return [f"{said}."]  # where they are applied, `compile` decides
    return [f"{said}, and applied there."]


def _taken(memory: MemoryEstimate | None, name: str) -> list[str]:
    """The cells of a module's memory."""
    if memory is None:
        return []
    (found,) = (m for m in memory.splits[0].modules if m.name == name)
    return [memory.unit.of(found.activations), f"{found.share:.2f}"]


def _peaks(model: Any, memory: MemoryEstimate, waiting: bool) -> str:
    (split,) = memory.splits
    local = split.local_one_apply if waiting else split.local
    unit = memory.unit
    said = (
        f"At batch size {memory.batch_size} a step is estimated to take at its peak, "
        f"beside weights and optimizer, {unit.of(memory.end_to_end)} {unit.name} in mode "
        f"'end_to_end' and {unit.of(local)} {unit.name} in mode 'local' "
        f"({memory.of_end_to_end(local):.2f} of that)"
    )
    if heads := sum(count_parameters(m.head_variables) for m in model.modules):
        said += f", without what heads take ({heads:,} parameters)"
    if getattr(model, "jit_compile", False) is True:
        said += ", and without XLA, which fuses and orders operations itself"
    return f"{said}."
