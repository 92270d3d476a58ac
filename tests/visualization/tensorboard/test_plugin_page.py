"""The page in a browser, served by a real TensorBoard process."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.visualization.tensorboard.logs import Log, parity

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("plotly", reason="plotly is not installed")
if BROWSER is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow
MODULES = ["encoder", "mixer", "classifier"]
BAD_RUN = "<img src=x onerror=alert(1)>"
BAD_MODULE = "<img src=x onerror=alert`2`><b>bold<br>%{y}"
PLUGIN = "keras_e2e_modules"
WAIT = 30_000  # milliseconds; a shared machine may be slow
sync_api.expect.set_options(timeout=WAIT)


class Server:
    def __init__(self, folder, load_fast):
        self.folder = folder
        parity(folder / "faulty/modules", MODULES, starved=["encoder"]).close()
        mended = {"starved": ["encoder"], "local_until": 401, "steps": 800}
        parity(folder / "repaired/modules", MODULES, **mended).close()
        bad = Log(folder / BAD_RUN, [BAD_MODULE, "plain"])
        for step in range(1, 60, 10):
            bad.put(step, "loss", [1.0 / step, None if step == 31 else 2.0])
            bad.put(step, "grad_rms", [float("nan"), float("inf") if step > 30 else 1e-3])
        bad.put(51, "verdict", [99, 0])
        bad.close()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        code = "from tensorboard.main import run_main; run_main()"
        options = [f"--logdir={folder}", "--host=127.0.0.1", f"--port={port}"]
        options += [f"--load_fast={load_fast}", "--reload_interval=1"]
        self.log = folder.parent / f"{folder.name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait()

    def wait(self):
        """Until all three runs have been read."""
        url = f"{self.address}/data/plugin/{PLUGIN}/runs"
        for _ in range(1200):
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    if answer.read().count(b'"stamp"') == 3:
                        return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.25)
        self.stop()
        pytest.fail(f"TensorBoard shows no runs:\n{self.log.read_text()[-3000:]}")

    def stop(self):
        if self.process.poll() is None:
            # The group: with the fast loader there is a second process.
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(300)


@pytest.fixture(scope="module", params=["true"])
def server(request, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("logs"), request.param)
    yield server
    server.stop()


# What depends on TensorBoard's loader; the rest takes the fast one, the default.
both_loaders = pytest.mark.parametrize("server", ["true", "false"], indirect=True)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """The tab; whatever goes wrong in it is collected, and none of it allowed.

    Args:
        whole: as a frame in TensorBoard's page; otherwise alone, which loads faster.
    """

    def __init__(self, browser, server, *runs, whole=False, **options):
        options.setdefault("viewport", {"width": 1400, "height": 1000})
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(WAIT)
        self.complaints = []
        self.page.on("dialog", lambda dialog: self.complain(dialog, dialog.message))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.listen)
        self.server, self.runs, self.whole = server, runs, whole

    def complain(self, dialog, text):
        self.complaints.append(f"dialog {text}")
        dialog.dismiss()

    def listen(self, message):
        # TensorBoard's own warnings are its own; browsers ask every site for an icon.
        if message.type == "error" and "favicon" not in message.location["url"]:
            self.complaints.append(f"{message.text} {message.location}")

    def open(self):
        if self.whole:
            self.page.goto(f"{self.server.address}/#{PLUGIN}")
            self.frame = self.page.frame_locator(f'iframe[src*="name={PLUGIN}"]')
        else:
            self.page.goto(f"{self.server.address}/data/plugin_entry.html?name={PLUGIN}")
            self.frame = self.page.main_frame
        self.panel = self.frame.locator(".panel").first
        # One is chosen already: that which was written last.
        self.panel.wait_for()
        self.frame.locator(".runs input:checked").uncheck()
        sync_api.expect(self.frame.locator(".panel")).to_have_count(0, timeout=WAIT)
        for run in self.runs:
            self.choose(run)
        return self

    def choose(self, run):
        self.frame.get_by_role("checkbox", name=run, exact=True).check()
        # The curves are drawn last.
        plots = self.frame.get_by_role("region", name=run, exact=True).locator(".plot")
        plots.nth(1).locator(".nsewdrag").first.wait_for()

    def __enter__(self):
        return self.open()

    def __exit__(self, *error):
        self.page.close()
        if error[0] is None:
            assert not self.complaints

    def quantity(self, name):
        self.frame.get_by_label("Quantity").select_option(name)
        self.panel.get_by_role("heading", name=f"{name}, curves").wait_for()

    def pixel(self, row):
        """The color in the middle of a row of the first heat map."""
        Image = pytest.importorskip("PIL.Image")
        area = self.panel.locator(".frame .nsewdrag").first
        picture = Image.open(io.BytesIO(area.screenshot())).convert("RGB")
        return picture.getpixel(
            (picture.width // 2 + 3, int((row + 0.5) * picture.height / 3))
        )


def see(locator, text):
    sync_api.expect(locator).to_contain_text(text, timeout=WAIT)


@both_loaders
def test_the_tab_shows_the_starved_module(browser, server):
    with Tab(browser, server, "faulty/modules", whole=True) as tab:
        # TensorBoard itself offers the tab.
        tab.page.get_by_role("tab", name="Modules").wait_for()
        see(tab.panel.locator(".alarms li").first, "Starved (90 % confidence): loss")
        see(tab.panel.locator(".alarms"), "1 encoder")
        see(tab.panel.locator(".chain li").first, "12,416 parameters")
        see(tab.panel.locator(".chain li").first, "trained by: task")
        see(tab.panel.locator(".chain li").first, "starved")
        tab.quantity("gradient_snr")
        labels = tab.panel.locator(".frame .ytick text").all_text_contents()
        assert labels == ["1 encoder", "2 mixer", "3 classifier"]
        # Blue below the healthy band, green within.
        for row, strongest in enumerate([2, 1, 1]):
            color = tab.pixel(row)
            assert color[strongest] == max(color) > 1.1 * min(color)
        see(tab.panel.locator(".legend"), "healthy: 0.01 to 10")


@both_loaders
def test_a_live_run_grows_without_a_reload(browser, server):
    folder = server.folder / "live/modules"
    log = parity(folder, MODULES, steps=100)
    log.writer.flush()
    with Tab(browser, server) as tab:
        tab.choose("live/modules")
        see(tab.frame.locator(".status"), "Up to step 91")
        tab.panel.get_by_text("Table of the numbers").click()
        heat = tab.panel.locator(".frame .plot")
        area = tab.panel.locator(".frame .nsewdrag").first.bounding_box()
        middle = area["y"] + area["height"] / 2
        tab.page.mouse.move(area["x"] + 60, middle)
        tab.page.mouse.down()
        tab.page.mouse.move(area["x"] + 260, middle, steps=4)
        tab.page.mouse.up()
        zoom = heat.evaluate("plot => plot.layout.xaxis.range")
        assert 0 < zoom[0] < zoom[1] < 90
        curves = tab.panel.locator(".plot").nth(1)
        assert curves.evaluate("plot => plot.layout.xaxis.range") == zoom
        # Looks that find nothing new draw nothing.
        heat.evaluate(
            "plot => { window.draws = 0;"
            "plot.on('plotly_afterplot', () => { window.draws += 1; }) }"
        )
        for _ in range(2):
            with tab.page.expect_response("**/runs"):
                heat.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        assert heat.evaluate("() => window.draws") == 0
        log.put(501, "loss", [0.3, 0.2, 0.1])
        log.put(501, "gradient_snr", [0.5] * 3)
        log.put(501, "grad_rms", [0.5] * 3)
        log.judge(501, ["dormant", "starved", "starved"])
        log.put(501, "cause", [0, 1, 1])
        log.close()
        see(tab.frame.locator(".status"), "Up to step 501")
        see(tab.panel.locator(".alarms"), "dormant")
        # An effect has not the look of an alarm.
        see(tab.panel.locator(".chain li").nth(1), "effect of encoder")
        looks = tab.panel.locator(".chain .badge").evaluate_all(
            "all => all.map(e => getComputedStyle(e).backgroundColor)"
        )
        assert looks[0] != looks[1] == looks[2] == "rgba(0, 0, 0, 0)"
        calm = tab.panel.locator("summary", has_text="without alarm")
        sync_api.expect(calm).to_be_hidden()
        see(tab.panel.locator("table tr").nth(1), "501")  # still open
        assert heat.evaluate("() => window.draws") > 0
        assert heat.evaluate("plot => plot.layout.xaxis.range") == zoom


def many(folder):
    """24 modules with long names: one fault with two effects, three alike, one alone."""
    modules = [f"layer_block_{i // 4 + 1}_residual_activation_{i + 1}" for i in range(24)]
    log = parity(folder, modules, steps=50)
    states = ["healthy"] * 20 + ["converged"] * 4
    for module in (2, 5, 8):
        states[module] = "vanishing"
    states[1], states[9], states[10], states[11] = "frozen", "dormant", "starved", "starved"
    log.put(51, "signal_gain", [float("nan")] * 12 + [1.0] * 12)
    log.judge(51, states)
    log.put(51, "cause", [10 if i in (10, 11) else 0 for i in range(24)])
    log.close()
    return modules


def test_many_modules_are_told_apart_and_no_alarm_is_cut(browser, server):
    modules = many(server.folder / "many/modules")
    with Tab(browser, server) as tab:
        tab.choose("many/modules")
        names = tab.panel.locator(".chain .name")
        shown = names.locator("[aria-hidden]").all_text_contents()
        assert len(set(shown)) == 24 and all("…" in name for name in shown)
        heard = names.locator(".unseen").all_text_contents()
        assert heard == [f"{i + 1} {module}" for i, module in enumerate(modules)]
        assert len(set(tab.panel.locator(".frame .ytick text").all_text_contents())) == 24
        # The cause of other states comes first, then the others, alike ones in one place.
        alarms = tab.panel.locator(".alarms > li")
        badges = alarms.locator("> .badge").all_text_contents()
        assert [text.split()[-1] for text in badges] == ["dormant", "frozen", "vanishing"]
        see(alarms.nth(1), f"{modules[10]} (starved), {modules[11]} (starved)")
        for module in (2, 5, 8):
            see(alarms.nth(3), modules[module])
        sizes = "e => [e.scrollHeight, e.clientHeight, e.scrollWidth, e.clientWidth]"
        whole = tab.panel.locator(".alarms").evaluate(sizes)
        assert whole[0] == whole[1] and whole[2] == whole[3]
        see(tab.frame.locator(".about strong"), "Signal-to-noise ratio of a module's grad")
        tab.quantity("signal_gain")
        see(tab.panel.locator(".legend"), "undefined here")
        gray = (
            tab.panel.locator(".legend .swatch")
            .nth(0)
            .evaluate("e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number)")
        )
        assert max(gray) - min(gray) < 16
        alarms.nth(0).get_by_role("link", name="what dormant means").click()
        see(tab.frame.locator(".meanings dl"), "hardly ever active")
        sync_api.expect(tab.frame.locator("#meaning-dormant")).to_be_in_viewport()
        tab.page.set_viewport_size({"width": 400, "height": 800})
        tab.page.wait_for_timeout(300)
        assert tab.frame.locator("html").evaluate("e => e.scrollWidth") <= 400


def test_what_a_reader_has_opened_outlasts_the_next_measurements(browser, server):
    modules = [f"block_{i}" for i in range(90)]
    log = parity(server.folder / "read/modules", modules, steps=50)
    states = ["vanishing"] * 3 + ["healthy"] * 87
    log.judge(51, states)
    log.writer.flush()
    with Tab(browser, server) as tab:
        tab.choose("read/modules")
        tab.panel.get_by_text("What was measured of each").click()
        last = tab.panel.locator(".alarms details").get_by_role("link").last
        last.focus()
        chain = tab.panel.locator(".chain")
        chain.evaluate("list => list.scrollTo({left: 40, top: 40, behavior: 'instant'})")
        places = "list => [list.scrollLeft, list.scrollTop]"
        before = chain.evaluate(places)
        assert max(before) > 0
        log.put(101, "loss", [0.5] * 90)
        log.judge(101, states)
        log.close()
        see(tab.frame.locator(".status"), "Up to step 101")
        see(tab.panel.locator(".alarms"), "(step 101)")
        sync_api.expect(last).to_be_focused()
        sync_api.expect(last).to_be_visible()
        assert chain.evaluate(places) == before


def test_many_runs_fit_on_a_page_and_a_live_start_says_what_comes(browser, server):
    folder = server.folder / "search"
    for trial in range(13):
        starved = ["mixer"] if trial == 12 else []
        parity(
            folder / f"trial_{trial:02d}/modules", MODULES, starved=starved, steps=210
        ).close()
    live = Log(folder / "trial_live/modules", MODULES)
    with live.writer.at(1.0):  # else it would be the newest, which is shown at first
        live.put(0, "parameters", [1, 2, 3])
        live.switch(0, "end_to_end", [0, 0, 0])
    live.close()
    with Tab(browser, server) as tab:
        box = tab.frame.get_by_role(
            "checkbox", name="search/trial_live/modules", exact=True
        )
        box.check()
        see(tab.panel.locator(".message").nth(1), "first measurement, at step 1.")
        box.uncheck()
        tab.frame.get_by_label("Filter").fill("TRIAL_ search")
        see(tab.frame.locator(".tools"), "14 of ")
        sync_api.expect(
            tab.frame.get_by_role("checkbox", name="faulty/modules")
        ).to_be_hidden()
        tab.frame.get_by_role("button", name="Show all found").click()
        sync_api.expect(tab.frame.locator(".panel")).to_have_count(14, timeout=WAIT)
        folded = tab.frame.locator(".panel.folded")
        sync_api.expect(folded).to_have_count(10, timeout=WAIT)
        last = tab.frame.get_by_role("region", name="search/trial_12/modules", exact=True)
        see(last, "2 mixer")
        see(last.locator(".badge:visible"), "starved")
        assert tab.frame.locator("html").evaluate("e => e.scrollHeight") < 4500
        last.get_by_role("button", name="Unfold").click()
        last.locator(".plot .nsewdrag").first.wait_for()
        assert last.get_by_role("button", name="Fold").evaluate("e => e.matches(':focus')")
        tab.frame.get_by_role("button", name="Hide all").click()
        sync_api.expect(tab.frame.locator(".panel")).to_have_count(0, timeout=WAIT)


@both_loaders
def test_a_run_that_is_deleted_is_told_of_and_no_longer_drawn(browser, server):
    folder = server.folder / "short_lived"
    parity(folder / "modules", MODULES, steps=50).close()
    with Tab(browser, server) as tab:
        tab.choose("short_lived/modules")
        shutil.rmtree(folder)
        see(tab.panel.locator(".message").first, "This run is gone")
        sync_api.expect(tab.panel.locator(".frame")).to_be_hidden()
        sync_api.expect(tab.panel.locator(".chain")).to_be_hidden()


def test_names_stay_text(browser, server):
    with Tab(browser, server, BAD_RUN) as tab:
        see(tab.panel.locator("h2"), BAD_RUN)
        see(tab.panel.locator(".chain li").first, BAD_MODULE)
        tab.quantity("loss")
        label = tab.panel.locator(".frame .ytick text").first
        see(label, "1 <img src=…ld<br>%{y}")
        curves = tab.panel.locator(".plot").nth(1)
        curves.evaluate("p => Plotly.Fx.hover(p, [{curveNumber: 0, pointNumber: 0}])")
        hover = curves.locator(".hovertext")
        see(hover, BAD_MODULE)
        see(hover, "step 1: 1")
        assert hover.locator("tspan[style*=bold]").count() == 0
        assert tab.frame.locator("img").count() == 0


def test_numbers_that_are_none_are_marked_and_unknown_verdicts_named(browser, server):
    with Tab(browser, server, BAD_RUN) as tab:
        see(tab.panel.locator(".verdicts"), "Unknown verdict (code 99)")
        see(tab.panel.locator(".chain li").first, "trained by: not logged")
        tab.quantity("grad_rms")
        see(tab.panel.locator(".legend"), "NaN (6 cells)")
        see(tab.panel.locator(".legend"), "+∞ (3 cells)")
        tab.panel.get_by_text("Table of the numbers").click()
        see(tab.panel.locator("table tr").nth(1), "not a finite number")


def test_all_can_be_reached_by_keyboard(browser, server):
    with Tab(browser, server, "faulty/modules") as tab:
        tab.frame.get_by_label("Quantity").focus()
        tab.page.keyboard.press("Home")
        before = tab.frame.get_by_label("Quantity").input_value()
        tab.page.keyboard.press("ArrowDown")
        after = tab.frame.get_by_label("Quantity").input_value()
        assert after != before
        see(tab.panel.locator("h3").nth(2), f"{after}, module by step")
        tab.quantity("gradient_snr")
        reached, shown = [], []
        focused = tab.frame.locator(":focus")
        tab.frame.get_by_label("Quantity").focus()
        for _ in range(80):  # other tests add runs to choose from
            tab.page.keyboard.press("Tab")
            reached.append(focused.evaluate("e => e.id || e.className || e.textContent"))
            shown.append(focused.evaluate("e => getComputedStyle(e).outlineStyle"))
            if reached[-1] == "frame":
                break
        assert {"scale", "theme", "live", "Reset zoom", "chain"} <= set(reached)
        assert reached[-1] == "frame" and set(shown) == {"solid"}
        for key in ("ArrowUp", "Home", "ArrowRight"):
            tab.page.keyboard.press(key)
        see(tab.panel.locator(".read-out"), "1 encoder, step 11: gradient_snr")
        see(tab.panel.locator(".read-out"), "below the healthy band")
        tab.page.keyboard.press("ArrowDown")
        see(tab.panel.locator(".read-out"), "2 mixer, step 11: gradient_snr")
        see(tab.panel.locator(".read-out"), ", healthy")


def test_runs_stand_side_by_side_with_common_axes_and_colors(browser, server):
    with Tab(browser, server, "faulty/modules", "repaired/modules") as tab:
        tab.quantity("gradient_snr")
        panels = tab.frame.locator(".panel")
        sync_api.expect(panels).to_have_count(2)
        see(panels.nth(1), "Training mode: local, then end_to_end from step 401.")
        heats, curves = tab.frame.locator(".frame .plot"), ".panel .plot:not(.frame .plot)"
        boxes = [heats.nth(i).bounding_box() for i in range(2)]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
        # Alone the first was wider. It made room, and shrinks with the window.
        pictures = tab.frame.locator(".panel .main-svg")
        room = panels.first.bounding_box()["width"]
        widths = "all => Math.max(...all.map(svg => svg.getBoundingClientRect().width))"
        assert 0 < pictures.evaluate_all(widths) <= room
        tab.page.set_viewport_size({"width": 1200, "height": 1000})
        tab.page.wait_for_timeout(300)
        narrow = panels.first.bounding_box()["width"]
        assert pictures.evaluate_all(widths) <= narrow < room
        ticks = [
            heats.nth(i).locator(".colorbar .cbaxis text").all_text_contents()
            for i in range(2)
        ]
        assert ticks[0] == ticks[1] and "0.01" in ticks[0]
        ranges = tab.frame.locator(curves).evaluate_all(
            "plots => plots.map(p => [p.layout.xaxis.range, p.layout.yaxis.range])"
        )
        assert len(ranges) == 2 and ranges[0] == ranges[1]
        # The switch is marked, in the second run only.
        lines = heats.evaluate_all(
            "plots => plots.map(p => p.layout.shapes.map(s => s.x0))"
        )
        assert lines == [[], [401]]


def test_dark_and_light_follow_system_and_switch(browser, server):
    def shades():
        body = tab.frame.locator("body").evaluate(
            "e => getComputedStyle(e).backgroundColor"
        )
        plot = tab.panel.locator(".frame .plot").evaluate("p => p.layout.paper_bgcolor")
        return body, plot

    with Tab(browser, server, "faulty/modules", color_scheme="dark") as tab:
        assert shades() == ("rgb(23, 24, 26)", "#202124")
        tab.frame.get_by_label("Theme").select_option("light")
        assert shades() == ("rgb(245, 245, 245)", "#ffffff")
        tab.frame.get_by_label("Theme").select_option("system")
        tab.page.emulate_media(color_scheme="light")
        assert shades() == ("rgb(245, 245, 245)", "#ffffff")


def test_the_choice_outlasts_a_reload_but_not_another_log_directory(browser, server):
    with Tab(browser, server, "faulty/modules") as tab:
        tab.quantity("grad_rms")
        tab.page.reload()
        see(tab.panel.locator("h2"), "faulty/modules")
        see(tab.panel.locator("h3").nth(2), "grad_rms")
        kept = '{"runs": ["elsewhere/modules"], "quantity": "no_such"}'
        tab.page.evaluate(f"() => sessionStorage.setItem('keras_e2e.shown', '{kept}')")
        tab.page.reload()
        tab.panel.locator(".plot .nsewdrag").first.wait_for()
        sync_api.expect(tab.frame.get_by_text("elsewhere")).to_have_count(0)


def test_a_press_that_never_ends_outside_the_charts_holds_up_nothing(browser, server):
    """Native lists may keep the end of a press to themselves."""
    with Tab(browser, server, "faulty/modules") as tab:
        tab.frame.get_by_label("Quantity").dispatch_event("pointerdown")
        tab.quantity("loss")
        tab.quantity("gradient_snr")


def test_behind_another_tab_it_does_not_look(browser, server):
    with Tab(browser, server, "faulty/modules", whole=True) as tab:
        looks = []
        tab.page.on("request", lambda r: looks.append(r) if r.url.endswith("/runs") else 0)
        body = tab.frame.locator("body")
        now = "e => e.ownerDocument.dispatchEvent(new Event('visibilitychange'))"
        tab.page.get_by_role("tab", name="Scalars").click()
        sync_api.expect(body).to_be_hidden(timeout=WAIT)
        looks.clear()
        body.evaluate(now)
        tab.page.wait_for_timeout(500)
        assert not looks
        tab.page.get_by_role("tab", name="Modules").click()
        sync_api.expect(body).to_be_visible(timeout=WAIT)
        with tab.page.expect_response("**/runs"):
            body.evaluate(now)


def test_without_plotly_the_page_says_how_to_get_it(browser, server):
    tab = Tab(browser, server)

    def without(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "plotly": None})

    tab.page.route("**/runs", without)
    tab.page.goto(f"{server.address}/data/plugin_entry.html?name={PLUGIN}")
    see(tab.page.locator("body"), 'pip install "keras-e2e[dashboard]"')
    tab.page.get_by_role("checkbox", name="faulty/modules", exact=True).check()
    panel = tab.page.get_by_role("region", name="faulty/modules", exact=True)
    see(panel.locator(".alarms"), "Starved")
    panel.get_by_text("Table of the numbers").click()
    see(panel.locator("table"), "below the healthy band")
    tab.page.close()


def test_without_data_or_server_the_page_says_so(browser, server):
    tab = Tab(browser, server)
    tab.page.route(
        "**/runs", lambda route: route.fulfill(json={"plotly": None, "runs": []})
    )
    tab.page.goto(f"{server.address}/data/plugin_entry.html?name={PLUGIN}")
    see(tab.page.locator(".empty"), "keras_e2e.callbacks.ModuleTensorBoard(log_dir)")
    tab.page.unroute("**/runs")
    tab.page.route("**/runs", lambda route: route.abort())
    tab.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    see(tab.page.locator(".status"), "TensorBoard does not answer")
    tab.page.close()
