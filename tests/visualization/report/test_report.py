"""The page that `keras-e2e report` makes of finished runs."""

import html.parser
import json
import math
import os
import re
import sys

import pytest

from keras_e2e.diagnostics import states
from keras_e2e.experiments import cli
from keras_e2e.modules import training_mode
from keras_e2e.visualization import report
from keras_e2e.visualization.report import downsampling, figures
from keras_e2e.visualization.report import page as pages
from keras_e2e.visualization.tensorboard import run_data, tags
from keras_e2e.visualization.tensorboard.event_writer import Writer

EVIL = "</script><img src=x onerror=alert(1)>"
ABOUT = "`norm(E g)^2 / trace(Var g)`. High is **good**."
STEPS = [1, 11, 21]


def tag(quantity, module, position=0):
    return tags.module_tag(quantity, position, module)


def write(folder, series, about=ABOUT):
    """Logs values by tag over `STEPS`, or over steps of their own as a dict."""
    events = []
    for name, values in series.items():
        given = values.items() if isinstance(values, dict) else zip(STEPS, values)  # noqa: B905
        events += [(step, name, value) for step, value in given]
    writer = Writer(str(folder), dict.fromkeys(series, about))
    for step, name, value in sorted(events, key=lambda event: event[0]):
        writer.scalars(step, [(name, value)])
    writer.close()


def usual(**changed):
    """A run of two modules, of which the second starves."""
    low, high = tags.band_tags("gradient_snr")
    return {
        tags.MODE: {
            1: training_mode.NAMES.index("local"),
            11: training_mode.NAMES.index("end_to_end"),
        },
        tag("parameters", "encoder"): {0: 17226},
        tag("parameters", "head", 1): {0: 5},
        tag("trained_by", "encoder"): {0: 1, 11: 0},
        tag("trained_by", "head", 1): {0: 0},
        tag("gradient_snr", "encoder"): [0.5, 0.25, 0.125],
        tag("gradient_snr", "head", 1): [0.002, 0.001, 0.003],
        low: [0.01] * 3,
        high: [10.0] * 3,
        tag("loss", "head", 1): [0.75, 0.7, 0.6875],
        tag("verdict", "encoder"): {21: states.CODES["healthy"]},
        tag("confidence", "encoder"): {21: 0.9},
        tag("verdict", "head", 1): {21: states.CODES["starved"]},
        tag("confidence", "head", 1): {21: 0.8},
        **changed,
    }


class Page(html.parser.HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.scripts, self.figures, self.text = [], [], [], ""
        self._inside, self._titles = "", []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self._inside = name
        if ("class", "chart") in attributes:
            self._titles.append(dict(attributes)["aria-label"])

    def handle_endtag(self, name):
        self._inside = ""

    def handle_data(self, text):
        kind = self.elements[-1][1].get("type") if self.elements else None
        if self._inside != "script":
            self.text += text if self._inside != "style" else ""
        elif kind == "application/json":
            self.figures.append((self._titles[-1], json.loads(text)))
        else:
            self.scripts.append(text)

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]

    def figure(self, *words):
        (found,) = [f for title, f in self.figures if all(word in title for word in words)]
        return found


@pytest.fixture
def make(tmp_path):
    """Reports on what was logged below tmp_path/logs."""

    def made(runs=1):
        output = tmp_path / "report.html"
        assert report.write(tmp_path / "logs", output) == (runs, [])
        return Page(output)

    return made


@pytest.fixture
def page(tmp_path, make):
    write(tmp_path / "logs" / "a" / "modules", usual())
    return make()


def test_the_chain_says_how_large_each_module_is_and_what_trains_it(page):
    assert "a/modules" in page.text
    assert re.search(
        r"01_encoder.{,60}17,226.{,40}own objective, then task from step 11", page.text
    )
    assert re.search(r"02_head.{,60}parameters ?5 ?trained by ?task", page.text)


def test_verdicts_stand_in_words_with_alarms_first(page):
    starved = "Starved (80 % confidence): loss 0.688 (0.75 at the start)."
    assert starved in page.text
    assert page.text.index("02_head: Starved") < page.text.index("01_encoder: Healthy")
    assert "verdict alarm" in [each.get("class") for each in page.all("span")]
    assert "1 alarm" in page.text


def test_descriptions_are_markdown(page):
    assert "<code>norm(E g)^2 / trace(Var g)</code>" in page.source
    assert "<strong>good</strong>" in page.source


def test_last_values_say_what_is_out_of_its_band(page):
    # Columns: loss, which the encoder lacks, then gradient_snr.
    cells = re.search(r"module ?loss ?gradient_snr (.*?) loss", page.text)[1]
    assert cells.replace(" ", "") == "01_encoder\N{EN DASH}0.12502_head0.68750.003▼"
    assert "below the healthy band" in page.source


def test_curves_have_the_measurements_the_band_and_the_switches(page):
    figure = page.figure("gradient_snr over steps")
    assert [(t["x"], t["y"]) for t in figure["data"]] == [
        (STEPS, [0.5, 0.25, 0.125]),
        (STEPS, [0.002, 0.001, 0.003]),
    ]
    assert [t["name"] for t in figure["data"]] == ["01_encoder", "02_head"]
    band, *lines = figure["layout"]["shapes"]
    assert (band["y0"], band["y1"]) == pytest.approx((0.01, 10.0))
    assert [line["x0"] for line in lines] == [1, 11]
    texts = [each["text"] for each in figure["layout"]["annotations"]]
    assert texts == ["local", "end_to_end"]
    assert figure["layout"]["yaxis"]["type"] == "log"  # from .001 to .5
    assert page.figure("loss over steps")["layout"]["yaxis"]["type"] == "linear"


def test_the_heat_map_has_a_row_per_module(page):
    (trace,) = page.figure("gradient_snr as a heat map")["data"]
    assert trace["y"] == ["01_encoder", "02_head"]
    assert trace["x"] == STEPS
    assert trace["z"] == [[0.5, 0.25, 0.125], [0.002, 0.001, 0.003]]
    assert trace["meta"] == {"log": True}  # the page takes the logarithms


def test_the_page_needs_no_network(page):
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert addresses and all(a.startswith(("#", "data:")) for a in addresses)
    assert not re.search(r"@import|url\(", page.source.split("</style>")[0])
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy
    nonces = [s["nonce"] for s in page.all("script") if "type" not in s]
    assert len(nonces) == 2 and set(nonces) == {re.search("nonce-([^']+)", policy)[1]}
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_names_are_text_wherever_they_stand(tmp_path, make):
    # A folder cannot have a slash in its name; a module's becomes an underscore.
    series = {name.replace("encoder", EVIL): values for name, values in usual().items()} | {
        tag("loss", EVIL): [3.0, 2.0, 1.0],
        f"e2e_{EVIL.replace('/', '')}/01_encoder": [1.0],
    }
    write(tmp_path / "logs" / "b <img src=x onerror=alert(2)>", series, about=EVIL)
    write(tmp_path / "logs" / EVIL, series, about=f"[x](javascript:alert(3)) {EVIL}")
    page = make(runs=2)
    scripts = page.all("script")
    assert len([s for s in scripts if "type" not in s]) == 2
    assert len(scripts) == 2 + len(page.figures) > 8
    assert not page.all("img")
    assert not [
        a for _, attributes in page.elements for a in attributes if a.startswith("on")
    ]
    assert not [a for a in page.all("a") if not a.get("href", "#").startswith("#")]
    assert EVIL in page.text
    # Plotly reads markup in its texts.
    names = [t["name"] for _, f in page.figures for t in f["data"] if "name" in t]
    rows = [y for _, f in page.figures for t in f["data"] if "z" in t for y in t["y"]]
    assert any("&lt;" in name for name in names) and any("&lt;" in row for row in rows)
    assert not any("<" in each for each in names + rows)


def test_no_chart_can_end_the_script_that_it_stands_in():
    figure = {"layout": {"title": {"text": EVIL}, "height": 300}}
    found = pages._chart("", figures.Chart(figure, []), iter([1]))["json"]
    assert "<" not in found
    assert json.loads(found)["layout"]["title"]["text"] == EVIL


def test_long_series_are_thinned_and_keep_their_peaks(tmp_path, make):
    values = {step: float(step % 7) for step in range(1, 5001)}
    values |= {1234: 99.0, 2345: math.nan}
    write(tmp_path / "logs", {tag("loss", "encoder"): values})
    page = make()
    (trace,) = page.figure("loss over steps")["data"]
    assert 600 < len(trace["x"]) <= downsampling.POINTS
    kept = dict(zip(trace["x"], trace["y"], strict=True))
    assert (kept[1], kept[1234], kept[2345], kept[5000]) == (1.0, 99.0, None, 2.0)
    assert trace["mode"] == "lines+markers"  # else points between gaps cannot be seen
    (trace,) = page.figure("heat map")["data"]
    assert len(trace["x"]) == downsampling.COLUMNS
    assert trace["z"][0].count(99.0) == trace["z"][0].count(None) == 1
    assert "thinned to about 1,000 points" in page.text
    assert "400 columns for 5,000 steps" in page.text


def test_what_is_not_finite_is_a_gap_and_counted(tmp_path, make):
    values = [math.nan, 2.0, -math.inf]
    write(
        tmp_path / "logs",
        {tag("loss", "encoder"): values, tag("loss", "head", 1): [1.0] * 3},
    )
    page = make()
    assert page.figure("loss over steps")["data"][0]["y"] == [None, 2.0, None]
    assert page.figure("heat map")["data"][0]["z"][0] == [None, 2.0, None]
    assert "Not finite: 01_encoder 1 NaN and 1 infinite of 3 measurements." in page.text
    assert "-infinity" in page.text


def test_nothing_finite_at_all_is_still_a_page(tmp_path, make):
    write(tmp_path / "logs", {tag("loss", "encoder"): [math.nan]})
    assert "1 NaN of 1 measurements" in make().text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 101], True),
        ([1, 100], False),
        ([0, 1000], False),
        ([-1, 1000], False),
        ([], False),
    ],
)
def test_an_axis_is_logarithmic_beyond_two_positive_decades(values, expected):
    assert figures.logarithmic(values) is expected


def test_a_band_beyond_the_values_is_not_drawn_but_told(tmp_path, make):
    low, high = tags.band_tags("signal_gain")
    series = {tag("signal_gain", "encoder"): [20.0, 30.0, 40.0], low: [0.1], high: [10.0]}
    write(tmp_path / "logs", series)
    page = make()
    assert "shapes" not in page.figure("over steps")["layout"]
    assert "The healthy band lies outside of the chart." in page.text
    assert "40 ▲" in page.text


def test_many_modules_and_switches_have_a_page(tmp_path, make):
    series = {tag("loss", "m", i): [1.0, 2.0, 3.0] for i in range(30)}
    write(tmp_path / "logs", series | {tags.MODE: {s: s % 2 for s in range(100)}})
    page = make()
    figure = page.figure("over steps")
    assert not figure["layout"]["showlegend"] and "shapes" not in figure["layout"]
    assert "too many lines for a legend" in page.text
    assert "99 switches of the mode are too many" in page.text


def test_logs_without_verdicts_show_their_numbers(tmp_path, make):
    new = ("verdict", "confidence", "parameters", "trained_by")
    series = {
        n: v
        for n, v in usual().items()
        if not n.startswith(tuple(f"e2e_{g}/" for g in new))
    }
    write(tmp_path / "logs", series)
    page = make()
    assert "These logs hold no verdicts" in page.text
    assert page.text.count("not logged") == 4  # size and teaching of both modules
    assert "0.6875" in page.text


def test_a_verdict_without_certainty_says_nothing_of_it(tmp_path, make):
    write(tmp_path / "logs", {n: v for n, v in usual().items() if "confidence" not in n})
    page = make()
    assert "02_head: Starved: loss 0.688" in page.text
    assert "% confidence" not in page.text and "nan" not in page.text


def test_several_runs_are_compared(tmp_path, make):
    write(tmp_path / "logs" / "a" / "modules", usual())
    write(tmp_path / "logs" / "b" / "modules", usual(**{tag("verdict", "head", 1): {1: 2}}))
    page = make(runs=2)
    table = re.search(
        r"Last verdict of each module in each run(.*?)gradient_snr", page.text
    )[1]
    a, b = re.search("a/modules(.*)b/modules(.*)", table).groups()
    assert "healthy 90 % confidence" in a and "starved 80 % confidence" in a
    assert "converged" in b and "starved" not in b
    figure = page.figure("gradient_snr", "each run")
    names = [trace["name"] for trace in figure["data"]]
    assert names == ["a 01_encoder", "a 02_head", "b 01_encoder", "b 02_head"]
    assert len(page.figure("loss", "each run")["data"]) == 2


def test_unlike_models_are_compared_by_what_they_have(tmp_path, make):
    write(tmp_path / "logs" / "a" / "modules", usual())
    write(tmp_path / "logs" / "b" / "modules", usual(**{tag("verdict", "tail", 2): {1: 2}}))
    page = make(runs=2)
    found = re.search("Comparison a/modules, (.*?)b/modules, (.*?)loss", page.text)
    assert found[1] == "2 modules: 02_head ⚠ starved 80 % confidence; 1 healthy. "
    assert found[2].startswith(
        "3 modules: 02_head ⚠ starved 80 % confidence; 1 converged, "
    )
    assert "no such module" not in page.text


def test_a_page_of_many_runs_stays_small_and_folded(tmp_path, make):
    names = [
        tag(quantity, f"m{i}", i)
        for quantity in ("loss", "gradient_snr", "grad_rms", "update_ratio")
        for i in range(20)
    ]
    for run in range(8):
        writer = Writer(str(tmp_path / "logs" / f"r{run}"), dict.fromkeys(names, ABOUT))
        for step in range(100):
            writer.scalars(step, [(n, math.sin(step * i) + 2) for i, n in enumerate(names)])
        writer.close()
    page = make(runs=8)
    plotly = max(map(len, page.scripts))
    assert len(page.source) - plotly < 1_000_000
    # Runs are folded, the table of many modules, and all quantities but two.
    folds = [fold.get("open", "no") for fold in page.all("details")]
    assert folds == ["no", "no", None, None, "no", "no"] * 8


def test_many_alarms_of_one_state_are_one_item_and_none_is_missing(tmp_path, make):
    series = {tag("loss", f"m{i}", i): [1.0] * 3 for i in range(14)}
    for i in range(14):
        name = "frozen" if i == 13 else "starved" if i % 2 else "healthy"
        series[tag("verdict", f"m{i}", i)] = {21: states.CODES[name]}
    write(tmp_path / "logs", series)
    text = make().text.split("Verdicts")[-1]
    names = ", ".join(f"{i + 1:02d}_m{i}" for i in range(1, 13, 2))
    assert f"6 modules: {names} What was measured of each" in text
    assert "14_m13: Frozen" in text and "7 without alarm" in text


def test_a_cause_stands_above_other_alarms_with_its_effects(tmp_path, make):
    series = {tag("loss", name, i): [1.0] * 3 for i, name in enumerate("abcd")}
    for i, (name, state, cause) in enumerate(
        [("a", "frozen", 0), ("b", "dormant", 0), ("c", "starved", 2), ("d", "healthy", 0)]
    ):
        series[tag("verdict", name, i)] = {21: states.CODES[state]}
        series[tag("cause", name, i)] = {21: cause}
    write(tmp_path / "logs", series)
    text = make().text.split("Verdicts")[-1]
    places = [
        text.index(word) for word in ("02_b: Dormant", "Effects of it: 03_c", "01_a: Fro")
    ]
    assert places == sorted(places)


def test_a_quantity_has_a_title_in_words(tmp_path, make):
    about = "How far the steps go. `norm(dtheta)`. About 1e-3."
    write(tmp_path / "logs", {tag("update_ratio", "a"): [1.0] * 3}, about=about)
    page = make()
    assert "How far the steps go update_ratio" in page.text
    assert "<code>norm(dtheta)</code>" in page.source


def test_one_run_is_not_compared(page):
    assert "Comparison" not in page.text


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_file_is_read_up_to_there(tmp_path, damage):
    write(tmp_path / "logs", usual())
    (file,) = (tmp_path / "logs").iterdir()
    whole = bytearray(file.read_bytes())
    whole[-20:] = b"" if damage == "cut off" else b"x" * 20
    file.write_bytes(whole)
    runs, (notice,) = report.write(tmp_path / "logs", tmp_path / "report.html")
    assert runs == 1
    assert str(file) in notice and "is damaged or cut off behind record" in notice
    page = Page(tmp_path / "report.html")
    assert "is damaged or cut off behind record" in page.text
    assert page.figure("gradient_snr over steps")["data"][0]["y"] == [0.5, 0.25, 0.125]


def test_a_file_that_cannot_be_opened_does_not_hide_the_others(tmp_path):
    write(tmp_path / "logs", usual())
    os.symlink("nowhere", tmp_path / "logs" / "events.out.tfevents.9")
    runs, (notice,) = report.write(tmp_path / "logs", tmp_path / "report.html")
    assert runs == 1
    assert "tfevents.9" in notice and "cannot be read" in notice


def test_a_training_started_again_replaces_what_it_repeats(tmp_path):
    write(tmp_path / "logs", {tag("loss", "encoder"): {1: 5.0, 11: 4.0, 21: 3.0}})
    write(tmp_path / "logs", {tag("loss", "encoder"): {11: 2.0, 31: 1.0}})
    _, (notice,) = report.write(tmp_path / "logs", tmp_path / "report.html")
    assert "2 measurements of the earlier training are left out" in notice
    (trace,) = Page(tmp_path / "report.html").figure("over steps")["data"]
    assert (trace["x"], trace["y"]) == ([1, 11, 31], [5.0, 2.0, 1.0])


def test_no_measurement_is_dropped_silently(tmp_path):
    series = {tag("loss", "encoder"): {step: float(step) for step in range(1500)}}
    write(tmp_path / "logs", series)
    (run,) = report.event_files.read(tmp_path / "logs").runs
    assert isinstance(run, run_data.RunData) and run.name == "."
    assert run.quantities["loss"]["01_encoder"].steps == [*range(1500)]


# What is refused.


def command(*arguments):
    """Runs the command in this process; its exit code."""
    return cli.main([*map(str, arguments)])


def refuse(capsys, tmp_path, *arguments):
    """The message of a command that must fail and write nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert command(*arguments) == 2
    assert sorted(tmp_path.rglob("*")) == before
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


@pytest.fixture
def logs(tmp_path):
    write(tmp_path / "logs", usual())
    return tmp_path / "logs"


def test_the_command_says_where_the_page_is(capsys, tmp_path, logs):
    output = tmp_path / "page.html"
    assert command("report", logs, f"--output={output}") == 0
    assert capsys.readouterr().out == f"{output}: 1 run.\n"
    assert output.is_file()


def test_the_command_warns_of_what_is_missing(capsys, tmp_path, logs):
    (file,) = logs.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert command("report", logs, f"--output={tmp_path / 'page.html'}") == 0
    assert f"Warning: {file}: is damaged" in capsys.readouterr().err


def test_a_log_directory_must_be_given(capsys, tmp_path):
    assert "expected one log directory, found none" in refuse(capsys, tmp_path, "report")


def test_only_one_log_directory_is_taken(capsys, tmp_path):
    message = refuse(capsys, tmp_path, "report", "a", "b")
    assert "found 2 of them: a b" in message


def test_a_log_directory_must_be_there(capsys, tmp_path):
    message = refuse(capsys, tmp_path, "report", tmp_path / "gone")
    assert f"'{tmp_path / 'gone'}' does not exist: give" in message


def test_a_file_is_no_log_directory(capsys, tmp_path, logs):
    (file,) = logs.iterdir()
    message = refuse(capsys, tmp_path, "report", file)
    assert (
        f"{str(file)!r} is a file: give the folder that it is in, {str(logs)!r}" in message
    )


def test_a_log_directory_without_our_logs(capsys, tmp_path):
    write(tmp_path / "other", {"epoch_loss": [1.0, 2.0, 3.0]})
    message = refuse(capsys, tmp_path, "report", tmp_path / "other")
    assert f"No logs of ModuleTensorBoard below '{tmp_path / 'other'}': give" in message


def test_a_log_directory_must_be_readable(capsys, tmp_path, logs, monkeypatch):
    # Not by chmod: root reads everything.
    closed = lambda path, mode: os.fspath(path) != str(logs)  # noqa: E731
    monkeypatch.setattr(os, "access", closed)
    output = f"--output={tmp_path / 'page.html'}"
    message = refuse(capsys, tmp_path, "report", logs, output)
    assert f"{str(logs)!r} cannot be read: get permission" in message


def test_an_output_must_not_be_a_folder(capsys, tmp_path, logs):
    message = refuse(capsys, tmp_path, "report", logs, f"--output={tmp_path}")
    assert f"{str(tmp_path)!r} is a folder: give a file in it" in message


def test_an_output_needs_a_folder(capsys, tmp_path, logs):
    message = refuse(capsys, tmp_path, "report", logs, f"--output={tmp_path}/no/page.html")
    assert f"there is no folder '{tmp_path}/no'" in message


@pytest.mark.parametrize("closed", ["", "page.html"])
def test_an_output_must_be_writable(capsys, tmp_path, logs, monkeypatch, closed):
    (tmp_path / "page.html").write_text("old")
    path = str(tmp_path / closed)
    monkeypatch.setattr(os, "access", lambda p, mode: os.fspath(p) != path)
    output = f"--output={tmp_path / 'page.html'}"
    message = refuse(capsys, tmp_path, "report", logs, output)
    assert f"'{tmp_path / 'page.html'}' cannot be written" in message
    assert (tmp_path / "page.html").read_text() == "old"


def test_a_page_that_cannot_be_completed_leaves_the_old_one(
    capsys, tmp_path, logs, monkeypatch
):
    (tmp_path / "page.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    output = f"--output={tmp_path / 'page.html'}"
    assert "No space left on device" in refuse(capsys, tmp_path, "report", logs, output)
    assert (tmp_path / "page.html").read_text() == "old"


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_a_missing_package_is_named(capsys, tmp_path, logs, monkeypatch, package):
    for module in ("page", "figures"):
        monkeypatch.delitem(
            sys.modules, f"keras_e2e.visualization.report.{module}", raising=False
        )
        monkeypatch.delattr(report, module, raising=False)
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    output = f"--output={tmp_path / 'page.html'}"
    message = refuse(capsys, tmp_path, "report", logs, output)
    assert package in message and "pip install 'keras-e2e[report]'" in message


def test_each_command_takes_its_own_flags_only(capsys, tmp_path, logs):
    wrong = refuse(capsys, tmp_path, "report", logs, f"--output_dir={tmp_path}")
    assert "report: unknown flag --output_dir" in wrong
    wrong = refuse(capsys, tmp_path, "demo", f"--output={tmp_path / 'page.html'}")
    assert "demo: unknown flag --output" in wrong


def test_effects_are_not_counted_as_calm(tmp_path, make):
    series = {tag("loss", f"m{i}", i): [1.0] * 3 for i in range(14)}
    for i in range(14):
        name = {0: "dormant", 1: "starved"}.get(i, "healthy")
        series[tag("verdict", f"m{i}", i)] = {21: states.CODES[name]}
        series[tag("cause", f"m{i}", i)] = {21: float(i == 1)}
    write(tmp_path / "logs", series)
    text = make().text.split("Verdicts")[-1]
    assert "Effects of it: 02_m1" in text and "12 without alarm" in text


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_folder_whose_name_is_no_text_is_read(tmp_path, make):
    write(tmp_path / "logs" / "good", usual())
    write(tmp_path / "other", usual())
    os.rename(tmp_path / "other", os.fsencode(tmp_path / "logs") + b"/caf\xe9")
    page = make(runs=2)
    assert "cannot be read" not in page.text and "caf" in page.text
