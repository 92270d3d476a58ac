// The numbers of one quantity as a table: what the charts show, for those who read text.

import {h, number, whole} from './dom.js';
import {inBand} from './scale.js';

const COLUMNS = ['module', 'first', 'lowest', 'median', 'highest', 'latest', 'at step', 'not finite', 'latest is'];

function cellsOf(module, series, scale) {
  const name = h('th', {scope: 'row'}, `${module.number} ${module.name}`);
  if (!series) return [name, h('td', {colspan: COLUMNS.length - 1}, 'not logged')];
  const {steps, values} = series;
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const spread = sorted.length
    ? [sorted[0], sorted[Math.floor((sorted.length - 1) / 2)], sorted.at(-1)].map(number)
    : ['–', '–', '–'];
  const latest = values.at(-1);
  const judged = Number.isFinite(latest) ? inBand(scale, latest) || '–' : 'not a finite number';
  const texts = [
    number(values[0]),
    ...spread,
    number(latest),
    whole(steps.at(-1)),
    whole(values.length - sorted.length),
    judged,
  ];
  return [name, ...texts.map((text) => h('td', {}, text))];
}

export function table(run, quantity, scale) {
  const head = h('tr', {}, ...COLUMNS.map((column) => h('th', {scope: 'col'}, column)));
  const rows = run.modules.map((module) =>
    h('tr', {}, ...cellsOf(module, quantity.series.get(module.id), scale)),
  );
  return h(
    'table',
    {},
    h('caption', {}, `${quantity.name} of the modules of ${run.name}, over the measurements kept in the log`),
    h('thead', {}, head),
    h('tbody', {}, ...rows),
  );
}
