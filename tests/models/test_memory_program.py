"""How much is alive at a time, worked out by hand."""

from keras_e2e.models.memory_program import Operation, Program, Segment, peak


def op(reads, makes):
    return Operation(tuple(reads.split()), tuple(makes.split()))


def test_what_is_read_last_is_gone_after_it():
    chain = [op("x", "a"), op("a", "b"), op("b", "c")]
    sizes = dict(x=1, a=10, b=20, c=5)
    assert peak(chain, sizes) == 30  # a and b
    assert peak([*chain, op("a", "d")], {**sizes, "d": 7}) == 35  # a waits: a, b, c
    assert peak(chain, sizes, held={"x", "a"}) == 36
    assert peak([], {}) == 0


def test_what_nothing_makes_is_there_from_the_start():
    assert peak([op("", "a"), op("a w", "b")], dict(a=3, w=100, b=1)) == 104


def test_what_nobody_reads_takes_its_place_for_a_moment():
    assert peak([op("", "a b"), op("a", "c")], dict(a=1, b=50, c=2)) == 51


def two_modules():
    """Each makes two activations of 100; the gradients have 10 and 20."""
    first = Segment(
        [op("x", "a1"), op("a1", "a2")],
        [op("a2 a1", "d1"), op("d1 x", "g1")],
        frozenset({"a2"}),
        frozenset({"g1"}),
    )
    second = Segment(
        [op("a2", "b1"), op("b1", "b2")],
        [op("b2 b1", "e1"), op("e1 a2", "g2")],
        frozenset({"b2"}),
        frozenset({"g2"}),
    )
    sizes = dict(x=1, a1=100, a2=100, d1=100, g1=10, b1=100, b2=100, e1=100, g2=20)
    return Program([first, second], sizes)


def test_one_module_after_the_other():
    program = two_modules()
    assert program.kept() == [{"a1", "a2"}, {"b1", "b2"}]
    assert program.alone(0) == 301  # x, a1, a2, d1
    assert program.alone(1) == 400  # a2 is there from the start
    assert program.run(waiting=True) == 410  # g1 waits
    assert program.run(waiting=False) == 400
    assert program.gradients() == {"g1", "g2"}


def test_end_to_end_gradients_wait_or_do_not():
    backward = [op("a", "g1"), op("x", "g2")]
    only = Segment([op("x", "a")], backward, frozenset(), frozenset({"g1", "g2"}))
    program = Program([only], dict(x=1, a=1, g1=50, g2=60))
    assert program.run(waiting=False) == 61
    assert program.run(waiting=True) == 111


def test_checkpointing_keeps_what_is_handed_on():
    program = two_modules()
    # x, a2, then b1, b2, e1; the first module's part is made again.
    assert program.checkpointing(waiting=False) == 401
    assert program.checkpointing(waiting=True) == 401
    assert program.sizes.keys() == two_modules().sizes.keys()


def test_no_checkpointing_where_modules_stand_side_by_side():
    left = Segment([op("x", "a")], [op("a", "g1")], frozenset({"a"}), frozenset({"g1"}))
    right = Segment([op("x", "b")], [op("b", "g2")], frozenset({"b"}), frozenset({"g2"}))
    last = Segment([op("a b", "c")], [op("c", "g3")], frozenset({"c"}), frozenset({"g3"}))
    sizes = dict.fromkeys(["x", "a", "b", "c", "g1", "g2", "g3"], 1)
    assert Program([left, right, last], sizes).checkpointing(waiting=False) is None
