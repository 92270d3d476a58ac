"""The Custom Scalars layout shows exactly the tags that are written."""

import re

from keras_e2e import diagnostics
from keras_e2e.modules.training_mode import NAMES
from keras_e2e.visualization.tensorboard.custom_scalars import layout
from keras_e2e.visualization.tensorboard.tags import MODE, band_tags, module_tag

# Names that are awkward in a pattern, and names that begin another.
MODULES = ["block", "block2", "a.b+c*[0]", "$end^", "nested/name", "call(1)"]


class Plain(diagnostics.Quantity):
    name, formula = "rms", "norm(g)"


class Longer(diagnostics.Quantity):
    name, formula, healthy = "rms_ratio", "norm(g) / norm(theta)", (0.5, 2.0)


class Dotted(diagnostics.Quantity):
    name, formula, healthy = "rms.ratio", "the same", (0.0, 1.0)


QUANTITIES = [Plain(), Longer(), Dotted()]


def tags_of(quantity, modules=MODULES):
    return [module_tag(quantity, i, m) for i, m in enumerate(modules)]


def written():
    bands = [t for q in QUANTITIES if q.healthy for t in band_tags(q.name)]
    return [t for q in QUANTITIES for t in tags_of(q.name)] + bands + [MODE]


def matches(chart, tags):
    """As TensorBoard matches: the patterns joined, anchored at the start only."""
    pattern = "|".join(f"({tag})" for tag in chart.multiline.tag)
    return [tag for tag in tags if re.match(pattern, tag)]


def test_tags_number_the_modules_in_order():
    assert tags_of("rms")[:2] == ["e2e_rms/01_block", "e2e_rms/02_block2"]
    assert module_tag("rms", 9, "block") == "e2e_rms/10_block"


def test_tags_hold_nothing_that_tensorboard_reads_otherwise():
    """One slash, for the group; no parentheses, which mark the run in a legend."""
    for tag in written():
        assert tag.count("/") == 1
        assert not set(tag) & set("()")
    assert module_tag("rms", 0, "nested/name") == "e2e_rms/01_nested_name"


def test_each_chart_shows_all_modules_of_one_quantity_and_nothing_else():
    charts = {
        c.title.split(":")[0]: c for c in layout(MODULES, QUANTITIES).category[0].chart
    }
    assert list(charts) == ["mode", "rms", "rms_ratio", "rms.ratio"]
    strangers = ["e2e_rms/total", "e2e_rms", "old/e2e_rms/01_block", "e2e_modes/01_x"]
    tags = written() + strangers + [f"{MODE}_extra"]
    assert matches(charts["mode"], tags) == [MODE]
    for quantity in QUANTITIES:
        assert matches(charts[quantity.name], tags) == tags_of(quantity.name)


def test_one_layout_for_runs_with_other_modules():
    """Only charts that differ would be shown twice: here, the bands alone."""
    here, there = layout(MODULES, QUANTITIES), layout(["other"], QUANTITIES)
    assert here.category[0] == there.category[0]
    assert here.category[1] != there.category[1]


def test_a_band_for_each_quantity_with_a_healthy_range():
    bands = {c.title: c for c in layout(MODULES, QUANTITIES).category[1].chart}
    assert list(bands) == [
        "rms_ratio: healthy from 0.5 to 2",
        "rms.ratio: healthy from 0 to 1",
    ]
    shade, *modules = bands["rms_ratio: healthy from 0.5 to 2"].margin.series
    assert (shade.lower, shade.upper) == band_tags("rms_ratio")
    assert [s.value for s in modules] == tags_of("rms_ratio")
    # A series whose steps differ from those of its margins is not drawn.
    for series in (shade, *modules):
        assert series.lower == series.value
    assert all(s.upper == s.value for s in modules)


def test_no_bands_without_healthy_ranges():
    assert [c.title for c in layout(MODULES, [Plain()]).category] == ["Modules"]


def test_the_product_of_gains_has_a_chart_where_it_is_written():
    def titles(quantities):
        chart = layout(MODULES, quantities).category[0].chart
        return [c.title.split(":")[0] for c in chart]

    assert "signal_gain_product" in titles([diagnostics.SignalGain()])
    assert "signal_gain_product" not in titles([Plain()])


def test_the_mode_chart_spells_out_its_numbers():
    title = layout(MODULES, QUANTITIES).category[0].chart[0].title
    for index, name in enumerate(NAMES):
        assert f"{index} {name}" in title
