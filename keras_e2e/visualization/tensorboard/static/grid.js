// One quantity of one run as a grid of cells, module by step.

const COLUMNS = 800;

// Measurements farther apart than so many spacings have a gap between them. The spacing is
// the 90th percentile: logs keep a random choice of many measurements, so distances vary.
export const GAP = 4;

export function spacingOf(steps) {
  const distances = steps.slice(1).map((step, i) => step - steps[i]).sort((a, b) => a - b);
  if (!distances.length) return 1;
  return distances[Math.floor(0.9 * (distances.length - 1))];
}

function columnsOf(all) {
  const steps = [...new Set(all.flatMap((series) => series.steps))].sort((a, b) => a - b);
  if (steps.length <= COLUMNS) return steps;
  const width = (steps.at(-1) - steps[0]) / COLUMNS;
  return Array.from({length: COLUMNS + 1}, (_, i) => Math.round(steps[0] + i * width));
}

// What a column shows of a module: the last measurement in it, but rather one that is not
// finite, which must not get lost; without one the measurement before, which holds until the
// next one or, before a gap and at the end, for the usual distance.
function row(series, columns) {
  const cells = Array(columns.length).fill(null);
  if (!series) return cells;
  const {steps, values} = series;
  const spacing = spacingOf(steps);
  let next = 0;
  let held = null;
  columns.forEach((column, i) => {
    const end = columns[i + 1] ?? Infinity;
    let here = null;
    while (next < steps.length && steps[next] < end) {
      const measurement = {step: steps[next], value: values[next]};
      if (here === null || Number.isFinite(here.value)) here = measurement;
      held = measurement;
      next += 1;
    }
    const near = held && steps[next] - held.step <= GAP * spacing;
    if (here) cells[i] = here;
    else if (near || (held && column - held.step < spacing)) cells[i] = held;
  });
  return cells;
}

// `edges` are the borders of the columns: a measurement holds from its step to the next.
export function grid(run, quantity) {
  const by = quantity.series;
  const columns = columnsOf([...by.values()]);
  const spacing = spacingOf(columns);
  const withGaps = [];
  columns.forEach((column, i) => {
    withGaps.push(column);
    if (columns[i + 1] - column > GAP * spacing) withGaps.push(column + GAP * spacing);
  });
  return {
    columns: withGaps,
    edges: [...withGaps, withGaps.at(-1) + spacing],
    rows: run.modules.map((module) => row(by.get(module.id), withGaps)),
  };
}
