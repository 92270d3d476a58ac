// The choice of runs.

import {h, whole} from './dom.js';

// From so many runs on there is a field to find some by their names.
const MANY = 8;

export class RunList {
  // `chosen` are names, or null: then the run written last is shown.
  constructor(chosen, onChange) {
    this.chosen = Array.isArray(chosen) ? chosen.filter((name) => typeof name === 'string') : null;
    this.onChange = onChange;
    this.items = new Map();
    this.list = h('ul', {class: 'runs'});
    this.filter = h('input', {type: 'search', id: 'filter', placeholder: 'part of a name', oninput: () => this.sift()});
    this.found = h('span', {role: 'status'});
    const all = (on) => () => this.flipAll(on);
    this.tools = h(
      'div',
      {class: 'tools', hidden: true},
      h('label', {for: 'filter'}, 'Filter', this.filter),
      h('button', {type: 'button', onclick: all(true)}, 'Show all found'),
      h('button', {type: 'button', onclick: all(false)}, 'Hide all'),
      this.found,
    );
    this.element = h('fieldset', {hidden: true}, h('legend', {}, 'Runs'), this.tools, this.list);
  }

  update(runs) {
    const names = runs.map((run) => run.name).sort(new Intl.Collator('en', {numeric: true}).compare);
    // What is remembered may be of another log directory at the same address. If some of it is
    // here, TensorBoard has not read the others yet, or they are gone: the page says which.
    if (!this.items.size && names.length && !this.chosen?.some((name) => names.includes(name))) {
      this.chosen = this.chosen && [];
    }
    if (!this.chosen?.length) {
      const newest = runs.reduce((a, b) => (b.written > (a?.written ?? -1) ? b : a), null);
      if (this.chosen === null || !this.touched) this.chosen = newest ? [newest.name] : [];
    }
    // A run that is gone stays in the list while it is chosen: the page says so.
    const gone = this.chosen.filter((name) => !names.includes(name));
    const all = [...names, ...gone];
    for (const [name, item] of this.items) {
      if (all.includes(name)) continue;
      item.remove();
      this.items.delete(name);
    }
    all.forEach((name, i) => {
      if (!this.items.has(name)) this.items.set(name, this.item(name));
      const item = this.items.get(name);
      item.classList.toggle('gone', gone.includes(name));
      if (this.list.children[i] !== item) this.list.insertBefore(item, this.list.children[i] ?? null);
      item.querySelector('input').checked = this.chosen.includes(name);
    });
    this.element.hidden = !all.length;
    this.tools.hidden = all.length < MANY;
    this.sift();
  }

  // Shows the runs whose names hold all the words of the filter.
  sift() {
    const words = this.tools.hidden ? [] : this.filter.value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const [name, item] of this.items) {
      item.hidden = !words.every((word) => name.toLowerCase().includes(word));
      count += !item.hidden;
    }
    const text = `${whole(count)} of ${whole(this.items.size)} runs, ${whole(this.chosen.length)} shown`;
    if (this.found.textContent !== text) this.found.textContent = text;
  }

  flipAll(on) {
    this.touched = true;
    const found = [...this.items].filter(([, item]) => !item.hidden).map(([name]) => name);
    this.chosen = on ? [...new Set([...this.chosen, ...found])] : [];
    for (const [name, item] of this.items) item.querySelector('input').checked = this.chosen.includes(name);
    this.sift();
    this.onChange();
  }

  item(name) {
    const box = h('input', {type: 'checkbox', onchange: () => this.flip(name, box.checked)});
    return h('li', {}, h('label', {class: 'check'}, box, name));
  }

  flip(name, on) {
    this.touched = true;
    const chosen = this.chosen.filter((other) => other !== name);
    this.chosen = on ? [...chosen, name] : chosen;
    this.sift();
    this.onChange();
  }
}
