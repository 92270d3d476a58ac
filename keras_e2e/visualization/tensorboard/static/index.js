// The page: controls, choice of runs, and the look at the logs every few seconds.

import {address, listRuns, loadPlotly, readRun} from './api.js';
import {h} from './dom.js';
import {spacingOf} from './grid.js';
import {Meanings} from './meanings.js';
import {Panel} from './panel.js';
import {RunList} from './runs.js';
import {scaleOf} from './scale.js';
import {onSystemChange, recall, remember, setTheme, theme, THEMES} from './theme.js';

const EVERY = 5000;
const KEY = 'keras_e2e.shown';
const FIRST = ['gradient_snr', 'loss'];

class Page {
  constructor() {
    const kept = this.recall();
    this.panels = new Map();
    this.shared = {
      quantity: null,
      scale: null,
      steps: [0, 1],
      zoom: {x: null, y: null},
      hidden: new Set(),
      redraw: () => this.draw(),
      turned: () => {
        this.place();
        this.draw();
        this.complete();
      },
      // Once, however many panels a narrower window made narrower.
      resized: () => {
        this.soon ??= requestAnimationFrame(() => {
          this.soon = null;
          this.draw();
        });
      },
      onZoom: (chosen) => {
        Object.assign(this.shared.zoom, chosen);
        this.draw();
      },
    };
    this.wanted = kept.quantity ?? null; // what the user chose
    this.runs = new RunList(kept.runs ?? null, () => this.choose());
    this.quantity = h('select', {id: 'quantity', onchange: () => this.change(this.quantity.value)});
    this.choice = this.select('scale', ['auto', 'log', 'linear'], kept.scale, () => this.change());
    this.theme = this.select('theme', THEMES, theme(), () => {
      setTheme(this.theme.value);
      this.draw();
    });
    this.live = h('input', {type: 'checkbox', id: 'live', onchange: () => this.poll()});
    this.live.checked = true;
    this.reset = h('button', {type: 'button', onclick: () => this.shared.onZoom({x: null, y: null})}, 'Reset zoom');
    this.said = h('span', {role: 'status'}, 'Reading the logs …');
    this.clock = h('span'); // not announced: it changes at each look
    this.status = h('p', {class: 'status'}, this.said, this.clock);
    this.about = h('p', {class: 'about'});
    this.plotlyMessage = h('p', {class: 'message', role: 'status', hidden: true});
    this.message = h('div', {class: 'empty', role: 'status', hidden: true});
    this.opened = h('div', {class: 'panels'});
    this.folded = h('div', {class: 'panels folded'});
    this.meanings = new Meanings();
    this.main = h(
      'main', {}, this.runs.element, this.about, this.plotlyMessage, this.message, this.opened, this.folded,
      this.meanings.element,
    );
    this.pressed = false;
    this.late = false;
    this.pausedUntil = 0;
  }

  select(id, names, chosen, onchange) {
    const element = h('select', {id, onchange}, ...names.map((name) => h('option', {}, name)));
    if (names.includes(chosen)) element.value = chosen;
    return element;
  }

  open() {
    const labeled = (text, control) => h('label', {for: control.id}, text, control);
    document.documentElement.lang = 'en';
    document.title = 'Modules';
    document.head.append(h('link', {rel: 'stylesheet', href: address('style.css')}));
    setTheme(theme());
    document.body.append(
      h(
        'header',
        {},
        h('h1', {}, 'Modules'),
        labeled('Quantity', this.quantity),
        labeled('Scale', this.choice),
        labeled('Theme', this.theme),
        h('label', {for: 'live', class: 'check'}, this.live, 'Live'),
        this.reset,
        this.status,
      ),
      this.main,
    );
    onSystemChange(() => this.draw());
    document.addEventListener('visibilitychange', () => this.poll());
    // While a zoom is being dragged no redraw pulls the chart away from under it.
    // Only there: a list that is opened by mouse may keep the pointerup to itself.
    document.addEventListener('pointerdown', (e) => (this.pressed = Boolean(e.target.closest?.('.plot'))), true);
    document.addEventListener('pointerup', () => this.release(), true);
    document.addEventListener('pointercancel', () => this.release(), true);
    setInterval(() => this.tick(), EVERY);
    this.poll();
  }

  release() {
    this.pressed = false;
    if (this.late) setTimeout(() => this.draw());
  }

  // Whether anybody can see the page: TensorBoard hides the frame of another tab, by a style
  // that leaves its size. There is no frame, or none to be seen, outside of TensorBoard.
  seen() {
    const frame = window.frameElement;
    return !document.hidden && (!frame || frame.checkVisibility({visibilityProperty: true}));
  }

  // Large logs take the Python loader seconds: it gets a pause three times as long.
  tick() {
    if (performance.now() >= this.pausedUntil) this.poll();
  }

  async poll() {
    if (!this.live.checked || !this.seen()) return;
    await this.refresh();
  }

  // One look at a time; who asks meanwhile gets another look after it.
  async refresh() {
    if (this.looking) {
      this.again = true;
      return;
    }
    this.looking = true;
    const began = performance.now();
    try {
      do {
        this.again = false;
        await this.look();
      } while (this.again);
    } finally {
      this.looking = false;
      const now = performance.now();
      this.pausedUntil = now + 3 * (now - began);
    }
  }

  async look() {
    let listing;
    try {
      listing = await listRuns();
    } catch (error) {
      this.say(`${error.message} What is shown came before.`);
      return;
    }
    const stamps = new Map(listing.runs.map((run) => [run.name, run.stamp]));
    this.runs.update(listing.runs);
    const arranged = this.arrange();
    const ready = await this.prepare(listing.plotly);
    const panels = [...this.panels.values()];
    const changed = await Promise.all(panels.map((panel) => this.read(panel, stamps.get(panel.name))));
    this.explain(listing.runs.length);
    if (arranged || ready || changed.includes(true)) this.draw();
    // What is shown is known only now: more of a run may be asked for than what came first.
    if (changed.includes(true) && panels.some((panel) => panel.stamp && this.reads(panel))) this.again = true;
    const newest = Math.max(...[...this.panels.values()].map((panel) => panel.run?.last ?? 0));
    this.say(newest > 0 ? `Up to step ${newest.toLocaleString('en')}` : 'No step yet');
    this.clock.textContent = `, looked at ${new Date().toLocaleTimeString()}`;
  }

  // Whether there is something new of this run.
  async read(panel, stamp) {
    if (stamp === undefined) {
      const had = panel.run !== null;
      panel.lose('This run is gone: its log was deleted or moved.');
      return had;
    }
    if (stamp === panel.stamp && !this.reads(panel)) return false;
    const wanted = [this.wanted, this.shared.quantity, ...FIRST].filter((name) => name !== null);
    try {
      panel.take(await readRun(panel.name, wanted, panel.run));
    } catch (error) {
      if (error.gone || !panel.run) panel.lose(error.message);
      else {
        // Nothing is asked for again at once.
        panel.say(`${error.message} What is shown came before.`);
        return false;
      }
    }
    return true;
  }

  // Whether measurements are missing that this panel has to show.
  reads(panel) {
    return !panel.folded && panel.lacks(this.shared.quantity);
  }

  // Whether plotly has just come in.
  async prepare(version) {
    if (window.Plotly) return false;
    let problem = 'Without plotly there are no charts. Install it where TensorBoard runs: pip install "keras-e2e[dashboard]"';
    if (version !== null) {
      try {
        await loadPlotly(version);
        problem = '';
      } catch (error) {
        problem = error.message;
      }
    }
    this.plotlyMessage.textContent = problem;
    this.plotlyMessage.hidden = !problem;
    return !problem;
  }

  // A panel for each run chosen. Whether there are others than before.
  arrange() {
    const chosen = this.runs.chosen;
    let changed = false;
    for (const [name, panel] of this.panels) {
      if (chosen.includes(name)) continue;
      panel.remove();
      this.panels.delete(name);
      changed = true;
    }
    for (const name of chosen) {
      if (this.panels.has(name)) continue;
      const open = [...this.panels.values()].filter((panel) => !panel.folded).length;
      this.panels.set(name, new Panel(name, this.shared, open));
      changed = true;
    }
    if (changed) this.place();
    return changed;
  }

  // Those folded stand below: beside an open one they would leave its height empty.
  place() {
    const panels = this.runs.chosen.flatMap((name) => this.panels.get(name) ?? []);
    for (const panel of panels) (panel.folded ? this.folded : this.opened).append(panel.element);
  }

  explain(count) {
    const none = this.panels.size === 0;
    this.message.hidden = !none;
    if (!none) return;
    const how = [
      h('p', {}, 'No data of modules in this log directory. To get some, train with the callback:'),
      h('pre', {}, 'model.fit(x, y, callbacks=[\n    keras_e2e.callbacks.ModuleTensorBoard(log_dir),\n])'),
      h('p', {}, 'and start TensorBoard with --logdir=log_dir. New logs appear here by themselves.'),
    ];
    this.message.replaceChildren(...(count ? [h('p', {}, 'Choose a run.')] : how));
  }

  choose() {
    this.keep();
    this.refresh();
  }

  change(quantity = this.wanted) {
    this.wanted = quantity;
    this.shared.zoom.y = null;
    this.keep();
    this.draw();
    this.complete();
  }

  // Reads what has to be shown and was not read yet.
  complete() {
    if ([...this.panels.values()].some((panel) => this.reads(panel))) this.refresh();
  }

  listQuantities(runs) {
    const names = [...new Set(runs.flatMap((run) => [...run.quantities.keys()]))];
    const shown = [this.wanted, ...FIRST].find((name) => names.includes(name)) ?? names[0] ?? null;
    if (shown !== this.shared.quantity) this.shared.zoom.y = null;
    this.shared.quantity = shown;
    const listed = [...this.quantity.options].map((option) => option.value);
    if (listed.join('\n') !== names.join('\n')) {
      this.quantity.replaceChildren(...names.map((name) => h('option', {value: name}, name)));
    }
    this.quantity.value = this.shared.quantity;
    this.quantity.disabled = !names.length;
  }

  draw() {
    this.late = this.pressed;
    if (this.pressed) return;
    const runs = [...this.panels.values()].flatMap((panel) => panel.run ?? []);
    this.listQuantities(runs);
    const found = [...this.panels.values()].flatMap((panel) => (!panel.folded && panel.quantity()) || []);
    const scale = scaleOf(found, this.choice.value);
    // To the end of the last cell.
    const ends = (s) => [s.steps[0], s.steps.at(-1) + spacingOf(s.steps)];
    const steps = found.flatMap((q) => [...q.series.values()].flatMap(ends));
    this.shared.scale = scale;
    this.shared.steps = steps.length ? [Math.min(...steps), Math.max(...steps)] : [0, 1];
    this.describe(found, scale);
    for (const panel of this.panels.values()) panel.draw();
  }

  // What the quantity is, without the marks of Markdown, and how it is drawn.
  describe(found, scale) {
    const about = found.find((quantity) => quantity.about)?.about ?? '';
    const parts = [about.replaceAll('`', '')];
    if (scale.clipped) parts.push('Logarithmic: zeros and the lowest hundredth are drawn at the low end.');
    if (this.choice.value === 'log' && !scale.canLog) parts.push('Linear, because there are no positive or some negative values.');
    // A sentence, and the formula behind it.
    const text = parts.filter(Boolean).join(' ');
    const end = about.indexOf(' `');
    this.about.replaceChildren(h('strong', {}, text.slice(0, Math.max(0, end))), text.slice(Math.max(0, end)));
    this.about.hidden = !found.length;
  }

  say(text) {
    if (this.said.textContent !== text) this.said.textContent = text;
    this.clock.textContent = '';
  }

  keep() {
    const shown = {runs: this.runs.chosen, quantity: this.wanted, scale: this.choice.value};
    remember('sessionStorage', KEY, JSON.stringify(shown));
  }

  recall() {
    try {
      return JSON.parse(recall('sessionStorage', KEY)) ?? {};
    } catch {
      return {};
    }
  }
}

export function render() {
  new Page().open();
}
