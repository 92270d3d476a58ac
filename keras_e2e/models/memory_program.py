"""The memory that operations take: what each makes lives until it is read last."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple


class Operation(NamedTuple):
    """One operation of a training step.

    Attributes:
        reads: Tuple of the names of the tensors that it reads.
        makes: Tuple of the names of the tensors that it makes.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]


class Segment(NamedTuple):
    """What one module does in a training step.

    Attributes:
        forward: List of `Operation`, its forward pass.
        backward: List of `Operation`, from its loss to its gradients.
        ends: Names of the tensors that it hands on.
        gradients: Names of the gradients of its variables.
    """

    forward: list[Operation]
    backward: list[Operation]
    ends: frozenset[str]
    gradients: frozenset[str]


class Program(NamedTuple):
    """A training step in which each module's gradients are taken where it ends.

    Attributes:
        segments: List of `Segment`, in the order of the forward pass.
        sizes: Dict from the name of a tensor to its bytes.
        unknown: Names of tensors whose size depends on the data; they count as 0 bytes.
    """

    segments: list[Segment]
    sizes: Mapping[str, int]
    unknown: frozenset[str] = frozenset()

    def run(self, waiting: bool) -> int:
        """Bytes at the peak.

        Args:
            waiting: Boolean, whether all gradients wait for the last one. If not, each
                is applied at once.
        """
        operations = [o for s in self.segments for o in (*s.forward, *s.backward)]
        return peak(operations, self.sizes, self.gradients() if waiting else ())

    def alone(self, place: int) -> int:
        """Bytes at the peak while one module trains, given its input."""
        segment = self.segments[place]
        operations = [*segment.forward, *segment.backward]
        return peak(operations, self.sizes, segment.gradients)

    def kept(self) -> list[set[str]]:
        """For each module the names of what its backward pass reads of a forward pass.

        What several read counts to the first of them.
        """
        left = {name for s in self.segments for o in s.forward for name in o.makes}
        found = []
        for segment in self.segments:
            found.append(left & {name for o in segment.backward for name in o.reads})
            left -= found[-1]
        return found

    def gradients(self) -> frozenset[str]:
        """Names of the gradients of all variables."""
        return frozenset().union(*(segment.gradients for segment in self.segments))

    def checkpointing(self, waiting: bool) -> int | None:
        """Bytes at the peak of end-to-end training that makes each segment twice.

        Only what a segment hands on is kept; the rest is made again before its backward
        pass. None where a segment reads what an earlier one but the last handed on.

        Args:
            waiting: As in `run`.
        """
        *earlier, last = self.segments
        known: frozenset[str] = frozenset()
        operations: list[Operation] = []
        for segment in self.segments:
            made = {name for o in segment.forward for name in o.makes}
            reads = {name for o in segment.forward for name in o.reads}
            if any(name in s.ends for s in earlier for name in reads - made - known):
                return None
            known = segment.ends
        for segment in earlier:
            operations += _renamed(segment.forward, "first", segment, keep=segment.ends)
        operations += [*last.forward, *last.backward]
        for segment in reversed(earlier):
            again = [*segment.forward, *segment.backward]
            operations += _renamed(again, "again", segment)
        sizes = dict(self.sizes)
        for name, size in self.sizes.items():
            sizes[f"first {name}"] = sizes[f"again {name}"] = size
        held = {f"again {name}" for s in earlier for name in s.gradients} | last.gradients
        return peak(operations, sizes, held if waiting else ())


def _renamed(
    operations: Iterable[Operation],
    prefix: str,
    segment: Segment,
    keep: Collection[str] = (),
) -> list[Operation]:
    """Operations as they run another time: what the segment makes is made anew."""
    made = {
        name
        for o in (*segment.forward, *segment.backward)
        for name in o.makes
        if name not in keep
    }

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{prefix} {name}" if name in made else name for name in names)

    return [Operation(renamed(o.reads), renamed(o.makes)) for o in operations]


def peak(
    operations: Sequence[Operation], sizes: Mapping[str, int], held: Collection[str] = ()
) -> int:
    """The most bytes that are alive at a time.

    A tensor that nothing makes is there from the start.

    Args:
        operations: The operations in the order in which they run.
        sizes: Dict from the name of a tensor to its bytes.
        held: Names of tensors that live to the end.
    """
    last: dict[str, int] = {}
    made: set[str] = set()
    for place, operation in enumerate(operations):
        last.update(dict.fromkeys((*operation.reads, *operation.makes), place))
        made.update(operation.makes)
    dying: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in held:
            dying.setdefault(place, []).append(name)
    alive = most = sum(sizes[name] for name in last if name not in made)
    for place, operation in enumerate(operations):
        alive += sum(sizes[name] for name in operation.makes)
        most = max(most, alive)
        alive -= sum(sizes[name] for name in dying.get(place, ()))
    return most
