// All that is shown of one run. Built once; what changes is put into its places, so that
// focus, open parts and zoom outlast the next measurements.

import {alarms, calm, calmSummary, chain, glance, modesInWords} from './chain.js';
import {clear, margins} from './charts.js';
import {drawCurves} from './curves.js';
import {h, named, renew, whole} from './dom.js';
import {grid} from './grid.js';
import {describe, drawHeatMap, moveCursor, occurring} from './heatmap.js';
import {bandLegend} from './scale.js';
import {table} from './table.js';
import {lineColor} from './theme.js';

const KEYS = 'Arrow keys move from cell to cell, Home and End to the first and last step, Escape leaves.';
const LETTER = 6.5;
// So many runs are open at most until the user unfolds more, and show all verdicts in full.
const OPEN = 4;
const WORDY = 2;
let count = 0;

export class Panel {
  // `shared` is what all panels have in common: quantity, scale, zoom, hidden modules.
  // `open` is how many panels are open already.
  constructor(name, shared, open) {
    this.name = name;
    this.folded = open >= OPEN;
    this.brief = open >= WORDY;
    this.shared = shared;
    this.stamp = null;
    this.run = null;
    this.cells = null;
    this.cursor = null;
    const id = `run-${(count += 1)}`;
    this.modes = h('p', {class: 'modes'});
    this.message = h('p', {class: 'message', role: 'status', hidden: true});
    this.alarms = h('div');
    this.calmSummary = h('summary');
    this.calmList = h('ul', {class: 'verdicts'});
    this.calm = h('details', {}, this.calmSummary, this.calmList);
    this.chain = h('div');
    this.heat = h('div', {class: 'plot'});
    this.readOut = h('p', {class: 'read-out', 'aria-live': 'polite'}, KEYS);
    this.frame = h(
      'div',
      {
        class: 'frame',
        tabindex: 0,
        role: 'application',
        'aria-roledescription': 'heat map',
        'aria-label': `Heat map of ${name}. ${KEYS}`,
        onkeydown: (event) => this.onKey(event),
        onblur: () => this.moveTo(null),
      },
      this.heat,
    );
    this.legend = h('ul', {class: 'legend', 'aria-label': 'Colors'});
    this.curves = h('div', {class: 'plot'});
    this.toggles = h('div', {class: 'toggles', role: 'group', 'aria-label': 'Curves shown'});
    this.heatTitle = h('h3');
    this.curvesTitle = h('h3');
    this.noCharts = h('p', {class: 'message', hidden: true});
    this.table = h('div', {class: 'table', tabindex: 0, role: 'region', 'aria-label': 'Table'});
    this.details = h(
      'details',
      {ontoggle: () => this.drawTable()},
      h('summary', {}, 'Table of the numbers'),
      this.table,
    );
    this.heatPart = h('div', {}, this.heatTitle, this.frame, this.readOut, this.legend);
    this.curvesPart = h('div', {}, this.curvesTitle, this.curves, this.toggles);
    this.parts = [
      h('div', {}, h('h3', {}, 'Verdicts'), this.alarms, this.calm),
      h('div', {}, h('h3', {}, 'Chain'), this.chain),
      this.heatPart,
      this.curvesPart,
      this.details,
    ];
    this.fold = h('button', {type: 'button', class: 'fold', onclick: () => this.turn()});
    this.glance = h('p', {class: 'glance'});
    this.element = h(
      'section',
      {class: 'panel', 'aria-labelledby': id},
      h('div', {}, h('div', {class: 'title'}, h('h2', {id}, name), this.fold), this.modes, this.glance, this.message, this.noCharts),
      ...this.parts,
    );
    this.show();
    // Another run beside this one, or a narrower window.
    this.width = 0;
    this.resizes = new ResizeObserver(() => this.fit());
    this.resizes.observe(this.element);
  }

  fit() {
    const width = this.element.clientWidth;
    if (!width || width === this.width) return;
    if (this.width) this.shared.resized();
    this.width = width;
  }

  // New measurements.
  take(run) {
    const first = this.run === null;
    this.run = run;
    this.stamp = run.stamp;
    this.say('');
    this.show();
    this.glance.replaceChildren(...glance(run));
    this.modes.textContent = modesInWords(run);
    renew(this.alarms, alarms(run));
    this.calmSummary.textContent = calmSummary(run);
    renew(this.calmList, ...calm(run));
    this.calm.hidden = !calm(run).length;
    if (first) this.calm.open = run.modules.length <= 6 && !this.brief;
    renew(this.chain, chain(run));
  }

  // No data any more: a picture without a run behind it would be a wrong one.
  lose(why) {
    this.stamp = null;
    this.run = null;
    this.modes.textContent = '';
    this.noCharts.hidden = true;
    this.show();
    this.say(why);
  }

  // A folded run is its name and one line, so that many of them fit on a page.
  show() {
    this.element.classList.toggle('folded', this.folded);
    this.fold.textContent = this.folded ? 'Unfold' : 'Fold';
    this.fold.setAttribute('aria-label', `${this.fold.textContent} ${this.name}`);
    for (const part of this.parts) part.hidden = this.folded || !this.run;
    this.modes.hidden = this.folded;
    this.glance.hidden = !this.folded || !this.run;
    if (this.folded) this.noCharts.hidden = true;
  }

  turn() {
    this.folded = !this.folded;
    this.show();
    this.shared.turned();
    this.fold.focus();
  }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
  }

  quantity() {
    const quantity = this.run?.quantities.get(this.shared.quantity);
    return quantity?.series ? quantity : null;
  }

  // Whether the run has a quantity that was not read yet.
  lacks(quantity) {
    return this.run?.quantities.get(quantity)?.series === null;
  }

  // Why there are no charts.
  missing() {
    const {quantity} = this.shared;
    if (!this.run.quantities.size) return `Waiting for the first measurement, at step ${whole(this.run.first)}.`;
    return this.lacks(quantity) ? `Reading ${quantity} …` : `This run has no measurements of ${quantity}.`;
  }

  view(element) {
    const {l, r} = margins(this.run, element.clientWidth);
    const width = Math.max(l + r + 60, element.clientWidth);
    const letters = (width - l - r) / LETTER;
    return {x: this.shared.zoom.x ?? this.shared.steps, y: this.shared.zoom.y, width, letters};
  }

  draw() {
    if (!this.run || this.folded) return;
    const quantity = this.quantity();
    for (const part of [this.heatPart, this.curvesPart, this.details]) part.hidden = !quantity;
    this.noCharts.hidden = Boolean(quantity);
    if (!quantity) {
      this.noCharts.textContent = this.missing();
      return;
    }
    this.heatTitle.textContent = `${quantity.name}, module by step`;
    this.curvesTitle.textContent = `${quantity.name}, curves`;
    this.cells = grid(this.run, quantity);
    this.drawTable();
    const charts = Boolean(window.Plotly);
    for (const part of [this.heatPart, this.curvesPart]) part.hidden = !charts;
    if (!charts) return;
    if (this.cursor) this.cursor = this.inside(this.cursor);
    this.drawHeat();
    this.drawLegend();
    this.drawToggles();
    const {scale, hidden, onZoom} = this.shared;
    drawCurves(this.curves, this.run, quantity, scale, this.view(this.curves), hidden, onZoom);
  }

  drawHeat() {
    const {scale, onZoom} = this.shared;
    const view = this.view(this.heat);
    const zoom = ({x}) => onZoom({x});
    drawHeatMap(this.heat, this.run, this.quantity(), this.cells, scale, view, this.cursor, zoom);
  }

  drawLegend() {
    const notes = [...bandLegend(this.shared.scale), ...occurring(this.cells)];
    const items = notes.map(({color, text}) => {
      const swatch = h('span', {class: 'swatch', 'aria-hidden': 'true'});
      swatch.style.background = color;
      return h('li', {}, swatch, text);
    });
    this.legend.replaceChildren(...items);
  }

  // Kept while the modules are the same: one of them may have the focus.
  drawToggles() {
    const {hidden, redraw} = this.shared;
    const ids = this.run.modules.map((module) => module.id).join('\n');
    if (this.toggled !== ids) {
      this.toggled = ids;
      const all = (shown) => () => {
        for (const {id} of this.run.modules) shown ? hidden.delete(id) : hidden.add(id);
        redraw();
      };
      this.toggles.replaceChildren(
        h('button', {type: 'button', onclick: all(true)}, 'All'),
        h('button', {type: 'button', onclick: all(false)}, 'None'),
        ...this.run.modules.map((module) => {
          const flip = () => {
            if (!hidden.delete(module.id)) hidden.add(module.id);
            redraw();
          };
          const swatch = h('span', {class: 'swatch', 'aria-hidden': 'true'});
          const name = `${module.number} ${module.name}`;
          return h('button', {type: 'button', onclick: flip}, swatch, named({}, name, this.run.modules.length > 12 ? 20 : 40));
        }),
      );
    }
    this.run.modules.forEach((module, i) => {
      const button = this.toggles.children[i + 2];
      button.setAttribute('aria-pressed', !hidden.has(module.id));
      button.firstChild.style.background = lineColor(i, this.run.modules.length);
    });
  }

  drawTable() {
    const quantity = this.quantity();
    if (!this.details.open || !quantity) return;
    this.table.replaceChildren(table(this.run, quantity, this.shared.scale));
  }

  inside({row, column}) {
    const limit = (value, length) => Math.min(length - 1, Math.max(0, value));
    return {row: limit(row, this.cells.rows.length), column: limit(column, this.cells.columns.length)};
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.cells.columns.length - 1;
    const {row, column} = this.cursor ?? {row: 0, column: last};
    const next = {
      ArrowUp: {row: row - 1, column},
      ArrowDown: {row: row + 1, column},
      ArrowLeft: {row, column: column - (event.shiftKey ? 10 : 1)},
      ArrowRight: {row, column: column + (event.shiftKey ? 10 : 1)},
      Home: {row, column: 0},
      End: {row, column: last},
      Escape: null,
    };
    if (!(event.key in next)) return;
    event.preventDefault();
    // The first key only shows where one is.
    const started = this.cursor !== null || event.key === 'Home' || event.key === 'Escape';
    this.moveTo(started ? next[event.key] : {row, column});
  }

  moveTo(cursor) {
    if (cursor === this.cursor || !this.run || !this.cells) return;
    this.cursor = cursor && this.inside(cursor);
    moveCursor(this.heat, this.run, this.cells, this.view(this.heat), this.cursor);
    if (!this.cursor) {
      this.readOut.textContent = KEYS;
      return;
    }
    const {row, column} = this.cursor;
    const module = this.run.modules[row];
    this.readOut.textContent = describe(
      module, this.shared.quantity, this.cells.rows[row][column], this.shared.scale,
    );
  }

  remove() {
    this.run = null; // the focus may still leave it
    this.resizes.disconnect();
    if (window.Plotly) [this.heat, this.curves].forEach(clear);
    this.element.remove();
  }
}
