"""Which losses are differentiated together."""

from keras_e2e.modules.loss_parts import LossPart, loss_parts

NAMES = ["a", "b", "c", "out"]


def sets(**reached):
    return {name: frozenset(modules.split()) for name, modules in reached.items()}


def test_each_module_is_a_part_where_every_gradient_stops():
    parts = loss_parts(NAMES, sets(a="a", b="b", c="c", out="out"), {})
    assert [part.losses for part in parts] == [("a",), ("b",), ("c",), ("out",)]
    assert all(part.trains == part.ends == frozenset(part.losses) for part in parts)
    assert all(part.penalties for part in parts)


def test_losses_that_meet_in_a_module_are_one_part():
    parts = loss_parts(NAMES, sets(a="a", b="b", c="b c", out="out"), {})
    assert [part.losses for part in parts] == [("a",), ("b", "c"), ("out",)]
    assert parts[1].ends == {"b", "c"}


def test_losses_that_meet_by_way_of_a_third_are_one_part():
    parts = loss_parts(NAMES, sets(a="a", c="c", out="a c out"), {})
    assert [part.losses for part in parts] == [(), ("a", "c", "out")]
    assert parts[1].trains == {"a", "c", "out"}


def test_a_module_without_a_loss_is_a_part_for_its_penalties():
    parts = loss_parts(NAMES, sets(b="b", c="c", out="out"), {})
    assert parts[0] == LossPart((), frozenset("a"), frozenset("a"), penalties=True)


def test_a_loss_that_must_not_flow_on_is_a_part_of_its_own():
    window = {"c": frozenset("bc"), "out": frozenset(["c", "out"])}
    parts = loss_parts(NAMES, sets(a="a", b="a b"), window)
    assert parts[0] == LossPart(("c",), frozenset("bc"), frozenset("c"), penalties=False)
    assert parts[1].losses == ("out",) and parts[1].trains == {"c", "out"}
    assert parts[-1].losses == ("a", "b")
    # The compiled loss brings the penalties of what it trains; the others have their own.
    penalized = [(part.losses, set(part.trains)) for part in parts if part.penalties]
    assert penalized == [((), {"a"}), ((), {"b"})]
