// The chain of modules as a picture, and the verdicts as texts.

import {h, named, plural, whole} from './dom.js';
import {meaningLink} from './meanings.js';

const SHORT = new Intl.NumberFormat('en', {notation: 'compact', maximumSignificantDigits: 4});

// What a color says: an alarm, that all is well, worth a look, or nothing. Which state it is
// stands there in words, and a sign says it to eyes that do not tell the colors apart. An effect
// has none of an alarm's colors: nothing is to be mended there.
const LOOKS = {
  healthy: 'good', converged: 'good', stalled: 'notice', idle: 'notice', unclear: 'unclear', unknown: 'unclear',
};
const SIGNS = {alarm: '⚠', good: '✓', notice: '◆', unclear: '?', effect: '↳', none: ''};

function looks(verdict) {
  if (!verdict) return 'none';
  if (verdict.cause) return 'effect';
  return verdict.alarm ? 'alarm' : LOOKS[verdict.state] ?? 'notice';
}

export function badge(verdict) {
  const look = looks(verdict);
  const sign = h('span', {'aria-hidden': 'true'}, SIGNS[look] && `${SIGNS[look]} `);
  return h('span', {class: 'badge', 'data-look': look}, sign, verdict ? verdict.state : 'no verdict');
}

// Logs keep 24 bits: of a large number not every digit is right.
function size(parameters, short) {
  return short || parameters >= 2 ** 24 ? SHORT.format(parameters) : whole(parameters);
}

// Many modules have small boxes: what does not fit is told under the mouse and to screen readers.
export function chain(run) {
  const count = run.modules.length;
  const many = count > 12;
  const boxes = run.modules.map((module) => {
    const {verdict} = module;
    const parameters =
      module.parameters === null
        ? 'parameters not logged'
        : `${size(module.parameters, many)} parameters`;
    const facts = [parameters, `trained by: ${module.trained_by ?? 'not logged'}`];
    if (verdict?.cause) facts.push(`effect of ${verdict.cause}`);
    const name = `${module.number} ${module.name}`;
    const told = many
      ? [h('span', {class: 'unseen'}, facts.join(', '))]
      : facts.map((fact) => h('span', {class: 'fact'}, fact));
    return h(
      'li',
      {'data-look': looks(verdict), title: [name, ...facts].join('\n')},
      named({class: 'name'}, name, many ? 17 : 20),
      ...told,
      badge(verdict),
    );
  });
  const list = h('ol', {class: 'chain', tabindex: 0, 'aria-label': 'Modules in order'}, ...boxes);
  if (many) list.classList.add('many');
  return list;
}

const NO_VERDICT =
  'No verdict yet: it takes ten measurements or the end of an epoch, and older versions logged none.';

function verdictItem(module) {
  const {verdict} = module;
  const message = verdict?.message ?? NO_VERDICT;
  const when = verdict ? h('span', {class: 'when'}, ` (step ${whole(verdict.step)}) `) : null;
  return h(
    'li',
    {'data-look': looks(verdict)},
    badge(verdict),
    h('strong', {}, ` ${module.number} ${module.name} `),
    message,
    when,
    verdict && meaningLink(verdict.state),
  );
}

function effectsOf(run, module) {
  return run.modules.filter((other) => other.verdict?.cause === module.name);
}

// One line for all modules whose state is an effect of this one's fault.
function effects(run, module) {
  const found = effectsOf(run, module);
  if (!found.length) return [];
  const names = found.map((other) => `${other.name} (${other.verdict.state})`);
  return [h('li', {class: 'effects'}, `Effects of ${module.name}: ${names.join(', ')}.`)];
}

// Many alarms of one state are one item: all the names, and what is said of each in a fold.
function group(run, modules) {
  if (modules.length < 3) return modules.flatMap((module) => [verdictItem(module), ...effects(run, module)]);
  const [{verdict}] = modules;
  const names = modules.map((module) => `${module.number} ${module.name}`).join(', ');
  const item = h(
    'li',
    {'data-look': looks(verdict)},
    badge(verdict),
    h('strong', {}, ` ${modules.length} modules: `),
    `${names} `,
    meaningLink(verdict.state),
    h('details', {'data-part': verdict.state}, h('summary', {}, 'What was measured of each'), h('ul', {class: 'verdicts'}, ...modules.map(verdictItem))),
  );
  return [item, ...modules.flatMap((module) => effects(run, module))];
}

// What other states are effects of comes first: mended, it may take them along.
function alarming(run) {
  const found = run.modules.filter((module) => module.verdict?.alarm);
  const spread = new Map(found.map((module) => [module, effectsOf(run, module).length]));
  return found.sort((a, b) => spread.get(b) - spread.get(a));
}

export function alarms(run) {
  const found = alarming(run);
  const judged = run.modules.some((module) => module.verdict);
  if (!found.length) return h('p', {class: 'calm'}, judged ? 'No alarm.' : NO_VERDICT);
  const list = h('ul', {class: 'verdicts alarms', 'aria-label': 'Alarms'});
  const causes = found.filter((module) => effectsOf(run, module).length);
  list.append(...causes.flatMap((module) => group(run, [module])));
  const others = new Map();
  for (const module of found.filter((each) => !causes.includes(each))) {
    others.set(module.verdict.state, [...(others.get(module.verdict.state) ?? []), module]);
  }
  list.append(...[...others.values()].flatMap((modules) => group(run, modules)));
  return list;
}

// The line of a folded run: its alarms by name, and how many modules are well.
export function glance(run) {
  const found = alarming(run);
  const some = found.slice(0, 3).flatMap((module) => [
    badge(module.verdict), named({}, ` ${module.number} ${module.name}`, 26), ' · ',
  ]);
  const more = found.length > 3 ? [`${plural(found.length - 3, 'more alarm')} · `] : [];
  return [...some, ...more, calmSummary(run)];
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
  if (!run.modules.some((module) => module.verdict)) return []; // said once, in place of alarms
  return calmModules(run).map(verdictItem);
}

export function modesInWords(run) {
  if (!run.switches.length) return 'Training mode: not logged.';
  const spelled = run.switches.map(([step, mode], i) =>
    i ? `${mode} from step ${whole(step)}` : mode,
  );
  return `Training mode: ${spelled.join(', then ')}.`;
}
