// What the plugin's Python side answers.

// Where this file came from: right under a path prefix, too.
const BASE = new URL('.', import.meta.url);
// JSON has no such numbers; they come as texts.
const NOT_FINITE = {nan: NaN, inf: Infinity, '-inf': -Infinity};

export function address(path) {
  return new URL(path, BASE);
}

async function get(path) {
  let answer;
  try {
    answer = await fetch(address(path), {cache: 'no-store'});
  } catch {
    throw new Error('TensorBoard does not answer.');
  }
  let content = null;
  try {
    content = await answer.json();
  } catch {
    // Not the plugin's own: an error page of TensorBoard or of a proxy.
  }
  if (answer.ok && content) return content;
  const error = new Error(content?.error ?? `TensorBoard answers with error ${answer.status}.`);
  error.gone = answer.status === 404;
  throw error;
}

export function listRuns() {
  return get('runs');
}

export function listStates() {
  return get('states');
}

function numeric(value) {
  return typeof value === 'number' ? value : NOT_FINITE[value] ?? NaN;
}

// Beyond so many points of a series the whole is read again, in which TensorBoard keeps fewer.
const MOST = 3000;
const NONE = {steps: [], values: []};

// Old measurements from before a step, and new ones from there on.
function joined(old, fresh, since) {
  const kept = old.steps.filter((step) => step < since).length;
  return {
    steps: [...old.steps.slice(0, kept), ...fresh.steps],
    values: [...old.values.slice(0, kept), ...fresh.values],
  };
}

// Puts what is new behind what was read before; without new data other quantities stay, too.
function merge(run, before) {
  for (const [name, quantity] of run.quantities) {
    const held = before.quantities.get(name)?.series;
    if (!quantity.series && held && run.stamp === before.stamp) quantity.series = held;
    if (!quantity.series || !held || run.since === null) continue;
    for (const module of new Set([...held.keys(), ...quantity.series.keys()])) {
      const series = joined(held.get(module) ?? NONE, quantity.series.get(module) ?? NONE, run.since);
      if (series.steps.length) quantity.series.set(module, series);
      else quantity.series.delete(module);
    }
  }
}

// Of the quantities `wanted` the first that the run has comes with its measurements; of those,
// only what is new since `before`, the same run as it was read last.
export async function readRun(name, wanted, before) {
  const query = new URLSearchParams({run: name});
  for (const quantity of wanted) query.append('quantity', quantity);
  const shown = wanted.find((quantity) => before?.quantities.has(quantity));
  const held = before?.quantities.get(shown)?.series;
  const long = held && [...held.values()].some((series) => series.steps.length > MOST);
  if (held && !long) query.set('seen', before.newest);
  const run = await get(`run?${query}`);
  run.quantities = new Map(
    run.quantities.map((quantity) => [
      quantity.name,
      {
        ...quantity,
        band: quantity.band?.map(numeric) ?? null,
        series: quantity.series && new Map(
          Object.entries(quantity.series).map(([module, series]) => [
            module,
            {steps: run.steps[series.steps], values: series.values.map(numeric)},
          ]),
        ),
      },
    ]),
  );
  if (before) merge(run, before);
  return run;
}

let plotly = null;

// The library is asked for once, and again when that failed.
export function loadPlotly(version) {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = address(`plotly.min.js?version=${encodeURIComponent(version)}`);
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      script.remove();
      plotly = null;
      reject(new Error('plotly.js could not be loaded.'));
    };
    document.head.append(script);
  });
  return plotly;
}
