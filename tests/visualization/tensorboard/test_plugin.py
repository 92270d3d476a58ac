"""What the plugin's routes answer, on real logs and on providers that misbehave."""

import importlib.metadata
import importlib.util
import itertools
import json
import math
import re

import numpy as np
import pytest
from tensorboard import errors
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
)
from tensorboard.context import RequestContext
from tensorboard.data import provider as contract
from tensorboard.plugins import base_plugin
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from werkzeug.test import Client

from keras_e2e.diagnostics import states
from keras_e2e.visualization.tensorboard import plugin as ours
from keras_e2e.visualization.tensorboard import run_reader
from keras_e2e.visualization.tensorboard.event_writer import Writer
from keras_e2e.visualization.tensorboard.plugin import FILES, STATIC, ModulesPlugin, as_json
from keras_e2e.visualization.tensorboard.run_data import Scalar, gather
from keras_e2e.visualization.tensorboard.run_reader import MOST_MEASUREMENTS, Runs
from tests.visualization.tensorboard.logs import Log, parity

MODULES = ["encoder", "mixer", "classifier"]


def provider_of(folder):
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(folder))


def plugin_of(provider):
    return ModulesPlugin(base_plugin.TBContext(data_provider=provider))


def ask(provider, route, code=200, **query):
    """The JSON of a route, read as strictly as browsers read it."""
    app = plugin_of(provider).get_plugin_apps()[route]
    answer = Client(app).get(route, query_string=query)
    assert answer.status_code == code
    assert answer.content_type == "application/json"
    return json.loads(answer.data, parse_constant=pytest.fail)


def quantity(run, name):
    return next(q for q in run["quantities"] if q["name"] == name)


class Fake(contract.DataProvider):
    """Holds series in memory and counts questions."""

    def __init__(self, runs, error=None):
        self.runs, self.error, self.asked = runs, error, []

    def list_scalars(self, ctx=None, *, experiment_id, plugin_name, run_tag_filter=None):
        self.asked.append("list")
        return self._listed()

    def read_scalars(self, ctx=None, *, downsample=None, run_tag_filter=None, **kwargs):
        self.asked.append(downsample)
        if self.error:
            raise self.error
        return {}

    def _listed(self):
        series = contract.ScalarTimeSeries(
            max_step=1,
            max_wall_time=2.0,
            plugin_content=b"",
            description="",
            display_name="",
        )
        return {run: dict.fromkeys(tags, series) for run, tags in self.runs.items()}

    def experiment_metadata(self, *args, **kwargs): ...
    def list_plugins(self, *args, **kwargs): ...
    def list_runs(self, *args, **kwargs): ...
    def read_last_scalars(self, *args, **kwargs): ...
    def list_tensors(self, *args, **kwargs): ...
    def read_tensors(self, *args, **kwargs): ...
    def list_blob_sequences(self, *args, **kwargs): ...
    def read_blob_sequences(self, *args, **kwargs): ...
    def read_blob(self, *args, **kwargs): ...


def test_tensorboard_finds_the_plugin_by_the_entry_point():
    found = importlib.metadata.entry_points(group="tensorboard_plugins")
    assert ModulesPlugin in [
        entry.load() for entry in found if entry.value.startswith("keras_e2e.")
    ]


def test_lists_the_runs_of_modules_and_no_others(tmp_path):
    parity(tmp_path / "ours/modules", MODULES, steps=50).close()
    other = Writer(str(tmp_path / "other"), {})
    other.write(1, scalar_pb("e2e_summary/signal_gain_product", 1.0))
    other.write(1, scalar_pb("loss", 1.0))
    other.close()
    answer = ask(provider_of(tmp_path), "/runs")
    assert [run["name"] for run in answer["runs"]] == ["ours/modules"]


def test_a_run_has_chain_verdicts_words_curves_bands_and_switches(tmp_path):
    log = parity(tmp_path, MODULES, starved=["encoder"], local_until=61, steps=100)
    log.judge(100, ["starved", "healthy", "converged"], confidence=0.75)
    log.close()
    run = ask(provider_of(tmp_path), "/run", run=".")
    encoder = run["modules"][0]
    assert [m["name"] for m in run["modules"]] == MODULES
    assert (encoder["id"], encoder["number"]) == ("01_encoder", 1)
    assert (encoder["parameters"], encoder["trained_by"]) == (12416, "task")
    verdict = encoder["verdict"]
    assert (verdict["state"], verdict["alarm"], verdict["confidence"]) == (
        "starved",
        True,
        0.75,
    )
    assert verdict["message"].startswith("Starved (75 % confidence): loss ")
    assert [m["verdict"]["alarm"] for m in run["modules"]] == [True, False, False]
    assert run["switches"] == [[1, "local"], [61, "end_to_end"]]
    snr = quantity(run, "gradient_snr")
    assert snr["band"] == pytest.approx([0.01, 10.0])
    assert "norm(E g)^2" in snr["about"]
    assert quantity(run, "loss")["band"] is None
    series = snr["series"]["02_mixer"]
    assert run["steps"][series["steps"]] == list(range(1, 101, 10))
    assert len(series["values"]) == 10


def test_equal_steps_are_sent_once(tmp_path):
    parity(tmp_path, MODULES, steps=200).close()
    steps = ask(provider_of(tmp_path), "/run", run=".")["steps"]
    assert len(steps) == 1


def test_nan_and_infinity_come_as_texts(tmp_path):
    log = Log(tmp_path, ["a"])
    for step, value in enumerate([math.nan, math.inf, -math.inf, 0.1]):
        log.put(step, "grad_rms", [value])
    log.put(3, "verdict", [math.inf])
    log.put(3, "confidence", [math.nan])
    log.put(3, "parameters", [math.nan])
    log.close()
    run = ask(provider_of(tmp_path), "/run", run=".")
    values = quantity(run, "grad_rms")["series"]["01_a"]["values"]
    assert values == ["nan", "inf", "-inf", 0.1]
    assert run["modules"][0]["parameters"] is None


def test_old_logs_lack_verdicts_sizes_and_teachers(tmp_path):
    log = Log(tmp_path, ["a"])
    log.put(1, "loss", [0.5])
    log.close()
    module = ask(provider_of(tmp_path), "/run", run=".")["modules"][0]
    assert [module[key] for key in ("parameters", "trained_by", "verdict")] == [None] * 3


@pytest.mark.parametrize("code", [99, -1, math.nan])
def test_unknown_codes_are_called_unknown(tmp_path, code):
    log = Log(tmp_path, ["a"])
    for group in ("verdict", "trained_by"):
        log.put(1, group, [code])
    log.writer.scalars(1, [("e2e_summary/mode", code)])
    log.put(1, "loss", [0.5])
    log.close()
    run = ask(provider_of(tmp_path), "/run", run=".")
    module = run["modules"][0]
    assert module["trained_by"] == module["verdict"]["state"] == "unknown"
    assert f"Unknown verdict (code {code:g})" in module["verdict"]["message"]
    assert run["switches"] == [[1, "unknown"]]


def test_names_are_left_as_they_are(tmp_path):
    name = "<b>&amp;\"'%{y}"
    Log(tmp_path, [name]).close()
    log = Log(tmp_path / "<img src=x onerror=alert(1)>", [name])
    log.put(1, "loss", [1.0])
    log.close()
    provider = provider_of(tmp_path)
    run = ask(provider, "/runs")["runs"][0]["name"]
    assert run == "<img src=x onerror=alert(1)>"
    assert ask(provider, "/run", run=run)["modules"][0]["name"] == name


def test_the_stamp_changes_with_the_log_only(tmp_path):
    log = parity(tmp_path, MODULES, steps=30)
    log.writer.flush()
    provider = provider_of(tmp_path)
    listed = ask(provider, "/runs")["runs"][0]["stamp"]
    assert listed == ask(provider, "/runs")["runs"][0]["stamp"]
    assert listed == ask(provider, "/run", run=".")["stamp"]
    # Nothing but a verdict, at a step that is there.
    log.judge(21, ["healthy"] * 3)
    log.close()
    provider._multiplexer.Reload()
    assert ask(provider, "/runs")["runs"][0]["stamp"] != listed


def test_a_second_training_in_the_same_folder_takes_the_first_back(tmp_path):
    first = parity(tmp_path, MODULES, steps=300, local_until=101)
    first.judge(300, ["starved"] * 3)
    first.close()
    assert ask(provider_of(tmp_path), "/run", run=".")["modules"][0]["verdict"]["alarm"]
    parity(tmp_path, MODULES, steps=60).close()
    run = ask(provider_of(tmp_path), "/run", run=".")
    assert run["steps"] == [list(range(1, 61, 10))]
    assert run["switches"] == [[1, "end_to_end"]]
    assert [m["verdict"]["state"] for m in run["modules"]] == ["unclear"] * 3


def test_numbers_from_before_a_switch_are_no_evidence(tmp_path):
    log = Log(tmp_path, ["a"])
    log.mode(1, "local")
    log.put(1, "loss", [0.7])
    log.put(1, "skill", [0.5])
    log.mode(11, "end_to_end")
    log.put(11, "skill", [0.25])
    log.judge(11, ["converged"])
    log.close()
    run = ask(provider_of(tmp_path), "/run", run=".")
    words = run["modules"][0]["verdict"]["message"]
    assert words.startswith("Converged (90 % confidence): skill 0.25. ")


def test_a_truncated_log_gives_what_is_whole(tmp_path):
    parity(tmp_path, MODULES, steps=100).close()
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run = ask(provider_of(tmp_path), "/run", run=".")
    assert [m["name"] for m in run["modules"]] == MODULES


def test_an_error_of_the_provider_leaves_the_other_tabs_alone():
    class Failing(Fake):
        def list_scalars(self, *args, **kwargs):
            raise errors.NotFoundError("no such experiment")

    assert not plugin_of(Failing({})).is_active()
    assert "no such experiment" in ask(Failing({}), "/runs", code=404)["error"]


def test_a_switch_has_its_step_although_the_measurements_are_thinned_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run_reader, "MOST_OF_A_TAG", 20)
    parity(tmp_path, MODULES, steps=3000, local_until=1501).close()
    run = ask(provider_of(tmp_path), "/run", run=".")
    assert max(map(len, run["steps"])) == 20
    assert run["switches"][1] == [1501, "end_to_end"]


def test_runs_may_have_different_modules(tmp_path):
    parity(tmp_path / "a", MODULES, steps=20).close()
    parity(tmp_path / "b", ["only"], steps=20).close()
    provider = provider_of(tmp_path)
    names = [[m["name"] for m in ask(provider, "/run", run=run)["modules"]] for run in "ab"]
    assert names == [MODULES, ["only"]]


def test_a_run_that_is_not_there_is_told_of(tmp_path):
    for query in ({"run": "deleted"}, {}):
        answer = ask(provider_of(tmp_path), "/run", code=404, **query)
        assert "No data of modules in run" in answer["error"]


def test_a_run_deleted_between_two_questions_is_told_of():
    provider = Fake({"r": ["e2e_loss/01_a"]})
    assert "deleted" in ask(provider, "/run", code=404, run="r")["error"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.NotFoundError("gone"), 404), (errors.PermissionDeniedError("no"), 403)],
)
def test_errors_of_the_provider_come_as_json(error, code):
    provider = Fake({"r": ["e2e_loss/01_a"]}, error)
    assert ask(provider, "/run", code=code, run="r") == {"error": str(error)}


def test_a_run_takes_two_questions_however_many_tags():
    few, many = (
        [f"e2e_q{q}/{m:02d}_m" for q in range(20) for m in range(1, modules)]
        for modules in (3, 65)
    )
    provider = Fake({"few": few, "many": [*many, "loss"]})
    runs = Runs(provider, RequestContext())
    for name in provider.runs:
        runs.read(name)
    assert provider.asked == ["list", 1000, "list", MOST_MEASUREMENTS // len(many)]


def test_is_active_with_data_of_ours_only(tmp_path):
    other = Writer(str(tmp_path / "other"), {})
    other.write(1, scalar_pb("loss", 1.0))
    other.close()
    assert not plugin_of(None).is_active()
    assert not plugin_of(provider_of(tmp_path / "nothing")).is_active()
    assert not plugin_of(provider_of(tmp_path)).is_active()
    parity(tmp_path / "ours", MODULES, steps=20).close()
    assert plugin_of(provider_of(tmp_path)).is_active()


def test_files_have_routes_of_their_own():
    apps = plugin_of(None).get_plugin_apps()
    assert {file.name for file in STATIC.iterdir()} == set(FILES)
    # A star would make a path of what a request says.
    assert not any("*" in route for route in apps)
    for name, kind in FILES.items():
        answer = Client(apps[f"/{name}"]).get(f"/{name}")
        assert answer.content_type == f"{kind}; charset=utf-8"
        assert answer.data == (STATIC / name).read_bytes()
        for imported in re.findall(r"from '\./(.*?)'", answer.text):
            assert f"/{imported}" in apps


def test_the_page_makes_no_markup_of_data_and_needs_no_network():
    for name in FILES:
        text = (STATIC / name).read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert word not in text
        assert not re.search(r"https?://|url\(|@import", text)


def test_without_plotly_the_page_is_told_so(monkeypatch):
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    assert ask(Fake({}), "/runs")["plotly"] is None
    answer = Client(plugin_of(None).get_plugin_apps()["/plotly.min.js"]).get("/")
    assert answer.status_code == 404
    assert 'pip install "keras-e2e[dashboard]"' in answer.text


@pytest.mark.skipif(
    importlib.util.find_spec("plotly") is None, reason="plotly is not installed"
)
def test_plotly_comes_out_of_its_wheel():
    answer = Client(plugin_of(None).get_plugin_apps()["/plotly.min.js"]).get("/")
    assert answer.content_type == "text/javascript; charset=utf-8"
    assert "plotly.js" in answer.text[:200]
    assert ask(Fake({}), "/runs")["plotly"] == importlib.metadata.version("plotly")


def test_values_have_no_more_digits_than_were_logged():
    from keras_e2e.visualization.tensorboard.run_data import Scalar, gather

    run = gather("r", [Scalar("e2e_loss/01_a", [1], [0.10000000149011612])])
    assert as_json(run)["quantities"][0]["series"]["01_a"]["values"] == [0.1]


def test_the_page_knows_how_each_state_looks():
    text = (STATIC / "chain.js").read_text()
    for state in states.STATES:
        assert state.alarm or f"{state.name}: '" in text, f"{state.name} has no look"


# What protanopes, deuteranopes and tritanopes see of linear red, green and blue
# (Machado, Oliveira and Fernandes 2009).
SIGHTS = np.array(
    [
        np.eye(3),
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    ]
)


def test_colors_of_verdicts_are_told_apart_by_all_eyes_and_are_read():
    found = re.findall(
        r"data-look='(\w+)'\] \{ --look: #(\w{6})(?:; --ink: #(\w{6}))?",
        (STATIC / "style.css").read_text(),
    )
    assert [name for name, _, _ in found] == ["good", "alarm", "notice", "none"]

    def linear(color):
        value = np.array([int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        return np.where(value < 0.04, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)

    def brightness(color):
        return linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05

    for _, paper, ink in found:
        ratio = brightness(ink or "ffffff") / brightness(paper)
        assert max(ratio, 1 / ratio) > 4.5  # WCAG 2, level AA
    to_xyz = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]
    for sight in SIGHTS:
        seen = []
        for _, paper, _ in found:
            x, y, z = np.cbrt(to_xyz @ np.clip(sight @ linear(paper), 0.01, 1))
            seen.append(np.array([116 * y, 500 * (x - y), 200 * (y - z)]))  # CIELAB
        apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(apart) > 25


def test_what_is_not_shown_is_not_sent_and_still_judged(tmp_path):
    log = parity(tmp_path, MODULES, starved=["encoder"], steps=101)
    log.close()
    provider = provider_of(tmp_path)
    whole = ask(provider, "/run", run=".")
    part = ask(provider, "/run", run=".", quantity=["no_such", "grad_rms", "loss"])
    sent = [q["name"] for q in part["quantities"] if q["series"] is not None]
    assert sent == ["grad_rms"]
    assert quantity(part, "grad_rms")["series"] == quantity(whole, "grad_rms")["series"]
    assert (
        quantity(part, "gradient_snr")["about"] == quantity(whole, "gradient_snr")["about"]
    )
    assert part["modules"] == whole["modules"] and part["switches"] == whole["switches"]
    assert part["last"] == whole["last"] == 101


def test_only_what_is_new_is_sent(tmp_path):
    log = Log(tmp_path, MODULES)
    with log.writer.at(100.0):
        log.switch(0, "end_to_end", [0, 0, 0])
    for step in range(1, 52, 10):
        with log.writer.at(100.0 + step):
            log.put(step, "loss", [0.7, 0.6, 0.5])
    log.close()
    first = ask(provider_of(tmp_path), "/run", run=".", quantity="loss")
    assert (first["since"], first["newest"]) == (None, 151.0)
    log = Log(tmp_path, MODULES)
    with log.writer.at(161.0):
        log.put(61, "loss", [0.4, 0.4, 0.4])
    log.close()
    asked = {"run": ".", "quantity": "loss", "seen": first["newest"]}
    new = ask(provider_of(tmp_path), "/run", **asked)
    assert new["steps"] == [[51, 61]]  # the event that was the latest may have been cut
    assert new["since"] == 51 and new["last"] == 61
    log = Log(tmp_path, MODULES)
    with log.writer.at(171.0):  # started again from an earlier step on
        log.put(22, "loss", [0.3, 0.3, 0.3])
    log.close()
    again = ask(provider_of(tmp_path), "/run", **asked | {"seen": new["newest"]})
    assert (again["since"], again["last"], again["steps"]) == (22, 22, [[22]])


def test_before_the_first_measurement_a_run_says_when_it_comes(tmp_path):
    log = Log(tmp_path, MODULES)
    log.put(400, "parameters", [5, 5, 5])
    log.switch(400, "end_to_end", [0, 0, 0])
    log.close()
    run = ask(provider_of(tmp_path), "/run", run=".", quantity="loss")
    assert (run["quantities"], run["first"], run["last"]) == ([], 401, 0)
    assert [m["verdict"] for m in run["modules"]] == [None] * 3


def test_each_state_is_explained():
    told = ask(Fake({}), "/states")
    assert [each["name"] for each in told] == list(states.BY_NAME)
    assert all(each["meaning"] for each in told)


def test_what_serves_the_task_is_judged_by_its_loss():
    starved = states.CODES["starved"]
    run = gather(
        "modules",
        [
            Scalar("e2e_loss/02_out", [1, 11], [0.7, 0.6]),
            Scalar("e2e_verdict/01_encoder", [11], [starved]),
            Scalar("e2e_verdict/02_out", [11], [starved]),
        ],
    )
    assert run.verdict("01_encoder").summary == "Starved: loss 0.6 (0.7 at the start)"
