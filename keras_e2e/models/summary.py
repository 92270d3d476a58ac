"""The table behind `model.module_summary()`."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from keras_e2e.utils.graphs import count_parameters


def print_modules(model: Any, print_fn: Any = None) -> None:
    """Prints a table with one line for each module of a modular model.

    Args:
        model: The modular model.
        print_fn: Function that is called with the table as one string. Defaults to
            `None`, which prints to the terminal.
    """
    if not model.modules:
        (print_fn or print)(
            f"Modules of {model.name!r}: known after the first batch, or after "
            "model.examine(x)."
        )
        return
    table = Table(title=f"Modules of {model.name!r}", title_justify="left")
    table.add_column("#")
    table.add_column("module", no_wrap=True)
    table.add_column("layers", overflow="fold")
    table.add_column("objective", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("head", justify="right", no_wrap=True)
    for number, module in enumerate(model.modules, start=1):
        layers = [layer.name for layer in module.layers]
        shown = ", ".join(layers)
        if len(layers) > 3:
            shown = f"{layers[0]} and {len(layers) - 1} more"
        head = count_parameters(module.head_variables)
        if module.boundary is None:
            objective = "task loss"
        elif module.objective is None:
            objective = "none"
        else:
            objective = type(module.objective).__name__
        table.add_row(
            str(number),
            module.name,
            shown,
            objective,
            f"{module.parameters:,}",
            f"{head:,}" if head else "-",
        )
    if print_fn is None:
        Console().print(table)
        return
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    print_fn(text.getvalue().rstrip())
