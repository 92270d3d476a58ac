// What each verdict means, for those who ask: fetched once, when first opened.

import {listStates} from './api.js';
import {h} from './dom.js';

const id = (state) => `meaning-${state}`;

// To the explanation of a state, which is on this page: logs are read without a network, too.
export function meaningLink(state) {
  return h('a', {class: 'meaning', href: `#${id(state)}`, 'data-state': state}, `what ${state} means`);
}

export class Meanings {
  constructor() {
    this.list = h('dl');
    this.asked = null;
    this.element = h(
      'details',
      {class: 'meanings', ontoggle: () => this.element.open && this.read()},
      h('summary', {}, 'What the verdicts mean'),
      this.list,
      h('p', {}, 'What to do about each, step by step: docs/guides/what_now.md of keras_e2e. How each is found, how often it is right, and how to check it: docs/verdicts.md.'),
    );
    document.addEventListener('click', (event) => this.follow(event));
  }

  async read() {
    this.asked ??= listStates();
    try {
      const states = await this.asked;
      if (!this.list.children.length) this.list.append(...states.flatMap(explained));
    } catch (error) {
      this.asked = null;
      this.list.replaceChildren(h('dt', {}, error.message));
    }
  }

  async follow(event) {
    const link = event.target.closest?.('a.meaning');
    if (!link) return;
    event.preventDefault();
    this.element.open = true;
    await this.read();
    const place = document.getElementById(id(link.dataset.state)) ?? this.element;
    place.scrollIntoView({block: 'center'});
    place.focus({preventScroll: true});
  }
}

function explained({name, alarm, meaning, advice}) {
  const text = [meaning, advice].filter(Boolean).join(' ');
  return [h('dt', {id: id(name), tabindex: -1}, `${name}${alarm ? ' (an alarm)' : ''}`), h('dd', {}, text)];
}
