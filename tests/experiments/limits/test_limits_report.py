"""What is written on a sweep: files, tables, figures, and one page that needs no other."""

import csv
import html.parser
import io
import json
import math
import os
import re

import pytest
import sample_runs as made
from rich.console import Console

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits import drawing, figures, page, report, summary

EVIL = "</title></svg><script>alert(1)</script>[bold]$x^{$\x1b[31m../../up"


class Elements(html.parser.HTMLParser):
    """All start tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def written(rows, folder):
    """The page and what the terminal shows."""
    shown = io.StringIO()
    report.write(rows, folder, Console(file=shown, width=100))
    return (folder / report.PAGE).read_text("utf-8"), shown.getvalue()


@pytest.fixture(scope="module")
def rows():
    return [
        *made.runs("end_to_end", 1, 2),
        *made.runs("deep_supervision", 3),
        *made.runs("deep_supervision", 2, 1, labels=30),
    ]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "made" / "here"
    shown = written(rows, folder)[1]
    (folder / "shown.txt").write_text(shown)
    return folder


def test_the_terminal_shows_rates_medians_labels_and_claims(folder):
    shown = (folder / "shown.txt").read_text()
    assert "1/3, 0.510" in shown and "[0.06, 0.79]" in shown
    assert "3/3, 0.901" in shown
    assert "Intermediate labels given to: deep_supervision (90 at k = 3)" in shown
    assert "Without any: end_to_end" in shown
    assert "fewer than 10 seeds: no claim (the least: 3)" in shown
    assert shown.count("This sweep: no") == 4


def test_the_files_hold_every_run(rows, folder):
    runs = json.loads((folder / report.RUNS).read_text())
    assert [run["result"] for run in runs] == [result for _, result in rows]
    assert [run["setting"] for run in runs] == [vars(setting) for setting, _ in rows]
    with open(folder / report.LINES, newline="") as file:
        lines = list(csv.DictReader(file))
    for line, (setting, result) in zip(lines, rows, strict=True):
        assert int(line["seed"]) == setting.seed and line["regime"] == setting.regime
        assert float(line["accuracy"]) == result["accuracy"]
        assert int(line["spent_labels"]) == result["spent"]["labels"]


def test_every_figure_is_a_file_and_in_the_page(folder):
    names = sorted(os.listdir(folder / report.FIGURES))
    kinds = [re.sub(r".*_", "", name) for name in names]
    one = ["success.png", "accuracy.png", "time.png", "curves.png", "snr.png"]
    assert kinds == [*one, *one, "labels.png"]
    for name in names:
        assert (folder / report.FIGURES / name).read_bytes().startswith(b"\x89PNG")
    found = Elements((folder / report.PAGE).read_text())
    assert sum(tag == "svg" for tag, _ in found.tags) == len(names)


def test_lines_over_labels_are_those_of_budgets_and_dashed_those_without_labels():
    rows = [
        *made.runs("end_to_end", 1, 1),
        *made.runs("deep_supervision", 2),
        *made.runs("local", 2),
        *made.runs("deep_supervision", 1, 1, labels=30),
    ]
    (drawn,) = figures.over_labels(summary.sections(rows))
    (axis,) = drawn.figure.axes
    lines = [(line.get_linestyle(), list(line.get_ydata())) for line in axis.lines]
    # `local` was run with all labels only.
    assert sorted(lines) == [("-", [0.5, 1.0]), ("--", [0.5, 0.5])]


def test_no_figure_of_an_earlier_report_is_left(tmp_path):
    written(
        [*made.runs("deep_supervision", 2), *made.runs("deep_supervision", 2, labels=30)],
        tmp_path,
    )
    (tmp_path / report.FIGURES / "mine.png").write_bytes(b"mine")
    before = set(os.listdir(tmp_path / report.FIGURES))
    written(made.runs("deep_supervision", 2), tmp_path)
    after = set(os.listdir(tmp_path / report.FIGURES))
    assert "mine.png" in after < before and len(after) == 6


def test_the_page_needs_no_script_and_no_network(folder):
    text = (folder / report.PAGE).read_text()
    found = Elements(text)
    for tag, attributes in found.tags:
        assert tag not in ("script", "iframe", "object", "img")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name) or "#"
            assert link.startswith(("#", "data:,")), link
    policy = next(a["content"] for t, a in found.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy and "script" not in policy
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_no_two_elements_have_the_same_id_and_every_reference_has_one(folder):
    found = Elements((folder / report.PAGE).read_text())
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = (folder / report.PAGE).read_text()
    wanted = re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', text)
    wanted = {a or b for a, b in wanted}
    for _, attributes in found.tags:
        wanted |= set((attributes.get("aria-labelledby") or "").split())
    assert wanted <= set(ids)


def test_the_page_shows_the_numbers(folder):
    text = Elements((folder / report.PAGE).read_text()).text
    assert "1/3 [0.06, 0.79]" in text
    assert "0.510 (0.510 to 0.900)" in text  # bimodal: the least and the most
    assert "Fewer than 10 seeds: no claim." in text
    assert "200 in 1 of 3" in text
    assert "the tasks are not those of the paper" in text
    for claim in ("C1.", "C2.", "C3.", "C4."):
        assert claim in text


def test_figures_take_their_colors_from_the_page(folder):
    text = (folder / report.PAGE).read_text()
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", drawn))
    declared = set(re.findall(r"--([a-z0-9-]+):", text))
    assert {"ink", "line-0", "line-1"} <= used <= declared


@pytest.mark.filterwarnings("ignore:Glyph")  # no font has the one of Escape
def test_names_are_escaped_wherever_they_stand(tmp_path):
    rows = []
    for setting, result in made.runs(EVIL, 2, task=EVIL, data=EVIL):
        values = next(iter(result["snr"].values()))
        result = {**result, "snr": {EVIL: values}, "modules": {EVIL: {"purity": 0.5}}}
        rows.append((setting, result))
    text, shown = written(rows, tmp_path / "sweep")
    found = Elements(text)
    assert not any(tag == "script" for tag, _ in found.tags)
    assert text.count("<script") == 0 and text.count("alert(1)") > 5
    assert text.count("<svg") == text.count("</svg>")
    assert "\x1b" not in shown and "[bold]" in shown
    assert {os.path.dirname(p) for p in map(str, tmp_path.rglob("*.png"))} == {
        str(tmp_path / "sweep" / report.FIGURES)
    }


def test_runs_with_nothing_but_gaps_are_shown_as_such(tmp_path):
    gaps = {
        "accuracy": math.nan,
        "success": None,
        "curve": [[100, math.nan], [200, None]],
        "snr": {"symbols": [], "parity": [[10, None], [20, math.inf]]},
        "ceiling": math.nan,
        "modules": {},
        "spent": {"labels": 0, "seconds": math.nan},
    }
    rows = [(made.setting(seed=0), gaps), (made.setting(seed=1), {})]
    text, shown = written(rows, tmp_path)
    assert "0/2" in Elements(text).text and f"0/2, {page.NONE}" in shown
    runs = json.loads((tmp_path / report.RUNS).read_text(), parse_constant=pytest.fail)
    assert runs[0]["result"]["accuracy"] is None
    assert runs[0]["result"]["curve"] == [[100, None], [200, None]]


def test_a_sweep_without_runs_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(CommandError, match="no runs to report on"):
        report.write([], tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_folder_that_cannot_be_written_is_named(rows, tmp_path):
    (tmp_path / "file").write_text("")
    quiet = Console(quiet=True)
    with pytest.raises(CommandError, match=r"cannot be written to .*file.*--output_dir"):
        report.write(rows[:1], tmp_path / "file", quiet)
    (tmp_path / "taken" / report.LINES).mkdir(parents=True)
    with pytest.raises(CommandError, match=r"taken.*: Is a directory\. Give another"):
        report.write(rows[:1], tmp_path / "taken", quiet)


def test_the_same_runs_give_the_same_figures(rows):
    (section,) = summary.sections(rows[:2])
    first, second = (figures.of_section(section)[0] for _ in range(2))
    svgs = [drawing.inline(each.figure, "a", "title") for each in (first, second)]
    assert svgs[0] == svgs[1]


def test_a_rate_is_drawn_where_it_stands_with_its_interval(rows):
    section = summary.sections(rows)[0]
    drawn = {each.name: each.figure for each in figures.of_section(section)}
    (axis,) = drawn["success"].axes
    heights = [line.get_ydata()[0] for line in axis.lines]
    assert heights == [pytest.approx(1 / 3), 1.0]
    ends = [c.get_segments()[0][:, 1] for c in axis.collections]
    assert ends[0] == pytest.approx(summary.wilson(1, 3))
    (strip,) = drawn["accuracy"].axes
    points = [line.get_xdata()[0] for line in strip.lines if line.get_marker() == "o"]
    assert sorted(points) == [0.51, 0.51, 0.9, 0.9, 0.901, 0.902]  # each seed
    (times,) = drawn["time"].axes
    assert [line.get_marker() for line in times.lines].count("x") == 2  # never
    curves = drawn["curves"].axes[0]
    solid = [line for line in curves.lines if len(line.get_xdata()) == 3]
    assert len(solid) == 3


def test_labels_do_not_lie_on_each_other():
    placed = drawing.spread([0.0] * 3 + [0.9, 1.0], 0.2, 0.0, 1.0)
    gaps = -(sorted(placed)[0] - sorted(placed)[1])
    assert gaps == pytest.approx(0.2) and min(placed) >= 0 and max(placed) <= 1
    assert all(
        b - a >= 0.2 - 1e-9
        for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)
    )
