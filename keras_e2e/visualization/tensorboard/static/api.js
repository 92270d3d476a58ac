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

function numeric(value) {
  return typeof value === 'number' ? value : NOT_FINITE[value] ?? NaN;
}

export async function readRun(name) {
  const run = await get(`run?run=${encodeURIComponent(name)}`);
  run.quantities = new Map(
    run.quantities.map((quantity) => [
      quantity.name,
      {
        ...quantity,
        band: quantity.band?.map(numeric) ?? null,
        series: new Map(
          Object.entries(quantity.series).map(([module, series]) => [
            module,
            {steps: run.steps[series.steps], values: series.values.map(numeric)},
          ]),
        ),
      },
    ]),
  );
  run.last = run.steps.reduce((last, steps) => Math.max(last, steps.at(-1)), 0);
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
