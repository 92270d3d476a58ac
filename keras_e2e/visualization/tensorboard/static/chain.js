// The chain of modules as a picture, and the verdicts as texts.

import {h, plural, whole} from './dom.js';

const SHORT = new Intl.NumberFormat('en', {notation: 'compact', maximumSignificantDigits: 4});

// Those with a look of their own in style.css; others of a newer version go by the alarm.
// An effect has none of an alarm's colors: nothing is to be mended there.
const KNOWN = [
  'unclear', 'healthy', 'converged', 'starved', 'vanishing', 'exploding', 'dormant', 'frozen',
  'conflicting', 'stalled', 'idle',
];

function looks(verdict) {
  if (!verdict) return 'none';
  if (verdict.cause) return 'effect';
  if (KNOWN.includes(verdict.state)) return verdict.state;
  return verdict.alarm ? 'alarm' : 'unknown';
}

export function badge(verdict) {
  const text = verdict ? `${verdict.alarm ? '⚠ ' : ''}${verdict.state}` : 'no verdict';
  return h('span', {class: 'badge', 'data-state': looks(verdict)}, text);
}

// Logs keep 24 bits: of a large number not every digit is right.
function size(parameters, short) {
  return short || parameters >= 2 ** 24 ? SHORT.format(parameters) : whole(parameters);
}

export function chain(run) {
  const many = run.modules.length > 12;
  const boxes = run.modules.map((module) => {
    const parameters =
      module.parameters === null
        ? 'parameters not logged'
        : `${size(module.parameters, many)} parameters`;
    const trainedBy = `trained by: ${module.trained_by ?? 'not logged'}`;
    return h(
      'li',
      {'data-state': looks(module.verdict), title: `${module.number} ${module.name}`},
      h('span', {class: 'name'}, `${module.number} ${module.name}`),
      h('span', {class: 'fact'}, parameters),
      h('span', {class: 'fact'}, trainedBy),
      badge(module.verdict),
      module.verdict?.cause ? h('span', {class: 'fact'}, `effect of ${module.verdict.cause}`) : null,
    );
  });
  const list = h('ol', {class: 'chain', tabindex: 0, 'aria-label': 'Modules in order'}, ...boxes);
  if (many) list.classList.add('many');
  return list;
}

const NO_VERDICT =
  'No verdict: it takes ten measurements or the end of an epoch, and older versions logged none.';

function verdictItem(module) {
  const {verdict} = module;
  const message = verdict?.message ?? NO_VERDICT;
  const when = verdict ? h('span', {class: 'when'}, ` (step ${whole(verdict.step)})`) : null;
  return h(
    'li',
    {'data-state': looks(verdict)},
    badge(verdict),
    h('strong', {}, ` ${module.number} ${module.name} `),
    message,
    when,
  );
}

// One line for all modules whose state is an effect of this one's fault.
function effects(run, module) {
  const found = run.modules.filter((other) => other.verdict?.cause === module.name);
  if (!found.length) return [];
  const names = found.map((other) => `${other.name} (${other.verdict.state})`);
  return [h('li', {class: 'effects'}, `Effects of ${module.name}: ${names.join(', ')}.`)];
}

export function alarms(run) {
  const found = run.modules.filter((module) => module.verdict?.alarm);
  const judged = run.modules.some((module) => module.verdict);
  if (!found.length) return h('p', {class: 'calm'}, judged ? 'No alarm.' : 'No verdicts.');
  const list = h('ul', {class: 'verdicts alarms', tabindex: 0, 'aria-label': 'Alarms'});
  list.append(...found.flatMap((module) => [verdictItem(module), ...effects(run, module)]));
  return list;
}

function calmModules(run) {
  return run.modules.filter((module) => !module.verdict?.alarm && !module.verdict?.cause);
}

// The line above the verdicts without an alarm, such as "3 without alarm: 2 healthy, ...".
export function calmSummary(run) {
  const count = new Map();
  const calm = calmModules(run);
  for (const module of calm) {
    const state = module.verdict?.state ?? 'without verdict';
    count.set(state, (count.get(state) ?? 0) + 1);
  }
  const parts = [...count].map(([state, times]) => `${times} ${state}`);
  return `${plural(calm.length, 'module')} without alarm${parts.length ? `: ${parts.join(', ')}` : ''}`;
}

export function calm(run) {
  return calmModules(run).map(verdictItem);
}

export function modesInWords(run) {
  if (!run.switches.length) return 'Training mode: not logged.';
  const spelled = run.switches.map(([step, mode], i) =>
    i ? `${mode} from step ${whole(step)}` : mode,
  );
  return `Training mode: ${spelled.join(', then ')}.`;
}
