"""What `estimate_memory` found: in a terminal, in a notebook and as a dict."""

import html
import io
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 80


# A title, the names of columns, and rows.
_Sheet = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


class Unit(NamedTuple):
    """What sizes are shown in."""

    name: str
    bytes: int

    def of(self, size: int) -> str:
        """A number of bytes in this unit."""
        return f"{size / self.bytes:,.1f}"

    @classmethod
    def for_size(cls, size: int) -> "Unit":
        """MiB, or KiB where that would show next to nothing."""
        return cls("MiB", 2**20) if size >= 2**20 else cls("KiB", 2**10)


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
            handed from module to module and makes the rest again, as `keras.remat` around
            each does; None where modules do not follow each other one by one, or are
            recomputed already (`remat`).
    """

    modules: tuple[ModuleMemory, ...]
    local: int
    local_one_apply: int
    checkpointing: int | None

    @property
    def largest(self) -> ModuleMemory:
        """The module with the most activations."""
        return max(self.modules, key=lambda module: module.activations)

    def sheet(self, unit: "Unit") -> _Sheet:
        """A table of the modules: title, columns and rows."""
        header = ("module", "parameters", "activations", "share", "peak of it alone")
        rows: list[tuple[str, ...]] = [
            (
                module.name,
                f"{module.parameters:,}",
                unit.of(module.activations),
                f"{module.share:.2f}",
                unit.of(module.peak),
            )
            for module in self.modules
        ]
        return f"Its modules, in {unit.name}", header, rows


class MemoryEstimate(NamedTuple):
    """What `estimate_memory` found.

    Printed (and in a notebook) it is a table with one line for each number of modules, what
    an end-to-end step takes, and where the modules end; for a single number of them also a
    table of the modules.

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
            console.print(title)
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
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
        unit = self.unit
        local = "".join(
            f", {len(s.modules)} modules: {unit.of(s.local)}" for s in self.splits
        )
        return (
            f"<MemoryEstimate of {self.model!r} at batch size {self.batch_size}: "
            f"{unit.name}, end to end: {unit.of(self.end_to_end)}{local}>"
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

    @property
    def unit(self) -> Unit:
        """What sizes are shown in."""
        return Unit.for_size(self.end_to_end)

    def _sheets(self) -> list[_Sheet]:
        if not self.splits:
            return []
        title = (
            f"Peak of a step of {self.model!r} at batch size {self.batch_size}, in "
            f"{self.unit.name} (of end to end, which takes "
            f"{self.unit.of(self.end_to_end)})"
        )
        header = (
            "modules",
            "largest share\nof activations",
            "local",
            "local,\none apply",
            "checkpointing",
        )
        rows: list[tuple[str, ...]] = []
        for split in self.splits:
            share = f"{split.largest.share:.2f}"
            peaks = (split.local, split.local_one_apply, split.checkpointing)
            rows.append((str(len(split.modules)), share, *map(self._peak, peaks)))
        sheets: list[_Sheet] = [(title, header, rows)]
        alone = [self.splits[0].sheet(self.unit)] if len(self.splits) == 1 else []
        return [*sheets, *alone]

    def _peak(self, peak: int | None) -> str:
        """A peak, and as a share of that of an end-to-end step."""
        if peak is None:
            return ""
        return f"{self.unit.of(peak)} ({self.of_end_to_end(peak):.2f})"

    def _lines(self) -> list[str]:
        unit = self.unit
        lines = [
            f"End to end, a step of {self.model!r} at batch size {self.batch_size} takes "
            f"{unit.of(self.end_to_end)} {unit.name} at its peak, beside weights and "
            f"optimizer: batch, activations, gradients. Backpropagation keeps "
            f"{unit.of(self.activations)} {unit.name} of activations."
        ]
        for split in self.splits:
            lines += self._said_of(split)
        return [*lines, *self.notes]

    def _said_of(self, split: SplitMemory) -> list[str]:
        """Where the modules end, and where they do not pay."""
        count, lines = len(split.modules), []
        if len(self.splits) > 1:
            names = ", ".join(module.name for module in split.modules[:-1])
            lines.append(
                f"{count} modules, modularize(model, {count - 1}): boundaries after "
                f"{names}; the largest is {split.largest.name!r}."
            )
        if split.local >= self.end_to_end:
            lines.append(
                f"{count} modules save nothing here: the largest keeps "
                f"{split.largest.share:.2f} of all activations."
            )
        return lines
