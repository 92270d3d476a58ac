// The choice of runs.

import {h} from './dom.js';

export class RunList {
  // `chosen` are names, or null: then the run written last is shown.
  constructor(chosen, onChange) {
    this.chosen = Array.isArray(chosen) ? chosen.filter((name) => typeof name === 'string') : null;
    this.onChange = onChange;
    this.items = new Map();
    this.list = h('ul', {class: 'runs'});
    this.element = h('fieldset', {hidden: true}, h('legend', {}, 'Runs'), this.list);
  }

  update(runs) {
    const names = runs.map((run) => run.name).sort(new Intl.Collator('en', {numeric: true}).compare);
    // What is remembered may be of another log directory at the same address.
    if (!this.items.size && names.length && this.chosen) {
      this.chosen = this.chosen.filter((name) => names.includes(name));
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
  }

  item(name) {
    const box = h('input', {type: 'checkbox', onchange: () => this.flip(name, box.checked)});
    return h('li', {}, h('label', {class: 'check'}, box, name));
  }

  flip(name, on) {
    this.touched = true;
    const chosen = this.chosen.filter((other) => other !== name);
    this.chosen = on ? [...chosen, name] : chosen;
    this.onChange();
  }
}
