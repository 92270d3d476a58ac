"""What `estimate_memory` found: in a terminal, in a notebook and as a dict."""

import html
import io
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
MIB = 2**20


# A title, the names of columns, and rows.
_Sheet = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


class ModuleMemory(NamedTuple):
    """What one module takes.

    Attributes:
        name: String, the module's name.
        parameters: Integer, the number of its parameters.
        activations: Integer, bytes that its forward pass makes and backpropagation keeps.
        share: Float, its share of the activations of all modules.
        peak: Integer, bytes at the peak while it alone is trained, as in the mode
            `"sequential"`.
    """

    name: str
    parameters: int
    activations: int
    share: float
    peak: int


class SplitMemory(NamedTuple):
    """What a model takes as so many modules.

    Attributes:
        modules: Tuple of `ModuleMemory`, in order.
        local: Integer, bytes at the peak of a step in the mode `"local"`, where a module's
            gradients are applied at its boundary, as most optimizers do.
        local_one_apply: Integer, the same where all gradients wait for the end of the
            step, as for `global_clipnorm` or a scaled loss.
        checkpointing: Integer, bytes at the peak of an end-to-end step that keeps what is
            handed from module to module and makes the rest again; None where modules do
            not follow each other one by one.
    """

    modules: tuple[ModuleMemory, ...]
    local: int
    local_one_apply: int
    checkpointing: int | None

    @property
    def largest(self) -> ModuleMemory:
        """The module with the most activations."""
        return max(self.modules, key=lambda module: module.activations)

    def sheet(self) -> _Sheet:
        """A table of the modules: title, columns and rows."""
        header = ("module", "parameters", "activations", "share", "peak of it alone")
        rows: list[tuple[str, ...]] = [
            (
                module.name,
                f"{module.parameters:,}",
                _mib(module.activations),
                f"{module.share:.2f}",
                _mib(module.peak),
            )
            for module in self.modules
        ]
        return "Its modules, in MiB", header, rows


class MemoryEstimate(NamedTuple):
    """What `estimate_memory` found.

    Printed (and in a notebook) it is a table with one line for each number of modules, and
    where the modules end; for a single number of them also a table of the modules.

    A peak is what one training step takes at its height, beside the state (weights and the
    optimizer's variables): the batch, activations and gradients.

    Attributes:
        model: String, the model's name.
        batch_size: Integer, the number of examples in a batch.
        parameters: Integer, the number of parameters of the model.
        activations: Integer, bytes of the activations that backpropagation keeps.
        end_to_end: Integer, bytes at the peak of an end-to-end step.
        splits: Tuple of `SplitMemory`, one for each number of modules.
        notes: Tuple of sentences on what the estimate leaves out.
    """

    model: str
    batch_size: int
    parameters: int
    activations: int
    end_to_end: int
    splits: tuple[SplitMemory, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=WIDTH, markup=False, highlight=False)
        for title, header, rows in self._sheets():
            table = Table(
                title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for name in header:
                side = "left" if name == "module" else "right"
                table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
            for row in rows:
                table.add_row(*row)
            console.print(table)
        for line in self._lines():
            console.print(line)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def __repr__(self) -> str:
        local = "".join(f", {len(s.modules)} modules: {_mib(s.local)}" for s in self.splits)
        return (
            f"<MemoryEstimate of {self.model!r} at batch size {self.batch_size}: MiB, end "
            f"to end: {_mib(self.end_to_end)}{local}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        parts = []
        for title, header, rows in self._sheets():
            head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
            body = "".join(
                f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
                for row in rows
            )
            parts.append(
                f'<table><caption style="text-align:left">{html.escape(title)}</caption>'
                f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            )
        return "".join([*parts, *(f"<p>{html.escape(line)}</p>" for line in self._lines())])

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as dicts, lists, texts and numbers, for JSON.

        Example:

        >>> from keras_e2e.models.memory_estimate import MemoryEstimate
        >>> MemoryEstimate("net", 32, 10, 2**20, 2**21, ()).to_dict()["end_to_end"]
        2097152
        """
        splits = [
            {
                **split._asdict(),
                "modules": [module._asdict() for module in split.modules],
            }
            for split in self.splits
        ]
        return {**self._asdict(), "splits": splits, "notes": list(self.notes)}

    def of_end_to_end(self, peak: int) -> float:
        """A peak as a share of that of an end-to-end step."""
        return peak / self.end_to_end if self.end_to_end else 1.0

    def _sheets(self) -> list[_Sheet]:
        title = f"Peak of a step of {self.model!r} at batch size {self.batch_size}, in MiB"
        header = (
            "modules",
            "largest share\nof activations",
            "local",
            "of end\nto end",
            "local,\none apply",
            "of end\nto end",
            "check-\npointing",
            "of end\nto end",
        )
        first = ("1 (end to end)", "1.00", *self._peak(self.end_to_end), "", "", "", "")
        rows: list[tuple[str, ...]] = [first]
        for split in self.splits:
            share = f"{split.largest.share:.2f}"
            peaks = (split.local, split.local_one_apply, split.checkpointing)
            cells = (cell for peak in peaks for cell in self._peak(peak))
            rows.append((str(len(split.modules)), share, *cells))
        sheets: list[_Sheet] = [(title, header, rows)]
        return [*sheets, *([self.splits[0].sheet()] if len(self.splits) == 1 else [])]

    def _peak(self, peak: int | None) -> tuple[str, str]:
        """A peak, and as a share of that of an end-to-end step."""
        return ("", "") if peak is None else (_mib(peak), f"{self.of_end_to_end(peak):.2f}")

    def _lines(self) -> list[str]:
        lines = []
        if len(self.splits) > 1:
            for split in self.splits:
                names = ", ".join(module.name for module in split.modules[:-1])
                lines.append(
                    f"{len(split.modules)} modules: boundaries after {names}; the largest "
                    f"is {split.largest.name!r}."
                )
        lines.append(
            f"Backpropagation keeps {_mib(self.activations)} MiB of activations. A peak is "
            "that of one training step beside weights and optimizer: batch, activations, "
            "gradients."
        )
        return [*lines, *self.notes]


def _mib(count: int) -> str:
    return f"{count / MIB:,.1f}"
