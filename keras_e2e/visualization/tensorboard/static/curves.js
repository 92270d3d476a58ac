// The curves of one quantity of one run, one for each module.

import {draw, layoutOf, plain} from './charts.js';
import {number, whole} from './dom.js';
import {GAP, spacingOf} from './grid.js';
import {colors, lineColor} from './theme.js';

// Measurements that are not finite, and have no place on the axis, are marked at its ends.
const MARKS = [
  {is: Number.isNaN, symbol: 'x', y: 0.03, away: 1},
  {is: (value) => value === Infinity, symbol: 'triangle-up', y: 0.97, away: -1},
  {is: (value) => value === -Infinity, symbol: 'triangle-down', y: 0.03, away: 1},
];

function readOut(module, step, value) {
  return plain(`${module.number} ${module.name}`) + `<br>step ${whole(step)}: ${number(value)}`;
}

// Zeros and strays below a logarithmic axis run along its lower edge. A line breaks where
// measurements are missing.
function pointsOf(module, {steps, values}, scale) {
  const gap = GAP * spacingOf(steps);
  const points = {x: [], y: [], text: []};
  const put = (x, y, text) => {
    points.x.push(x);
    points.y.push(y);
    points.text.push(text);
  };
  values.forEach((value, i) => {
    if (i && steps[i] - steps[i - 1] > gap) put(steps[i - 1] + gap, null, '');
    const drawn = scale.log && value < scale.low ? scale.low : value;
    put(steps[i], Number.isFinite(value) ? drawn : null, readOut(module, steps[i], value));
  });
  return points;
}

function lineOf(module, series, color, scale) {
  return {
    type: 'scatter',
    mode: series.steps.length < 40 ? 'lines+markers' : 'lines',
    ...pointsOf(module, series, scale),
    hovertemplate: '%{text}<extra></extra>',
    line: {color, width: 1.6},
    marker: {size: 5},
    connectgaps: false,
  };
}

// In rows, so that the marks of one module do not hide those of another.
function marksOf(module, series, color, index) {
  return MARKS.map(({is, symbol, y, away}) => {
    const where = series.values.flatMap((value, i) => (is(value) ? [i] : []));
    return {
      type: 'scatter',
      mode: 'markers',
      x: where.map((i) => series.steps[i]),
      y: where.map(() => y + away * 0.035 * (index % 6)),
      yaxis: 'y2',
      text: where.map((i) => readOut(module, series.steps[i], series.values[i])),
      hovertemplate: '%{text}<extra></extra>',
      marker: {symbol, color, size: 8},
      cliponaxis: false,
    };
  }).filter((trace) => trace.x.length);
}

// A band has its ends in the units of the axis; one without an end goes to the edge.
function bandOf(scale, range) {
  if (!scale.band) return [];
  const ends = scale.band.map((end, i) => {
    if (!Number.isFinite(end) || (scale.log && end <= 0)) return scale.log ? 10 ** range[i] : range[i];
    return end;
  });
  const line = {width: 0};
  const shape = {type: 'rect', xref: 'paper', x0: 0, x1: 1, y0: ends[0], y1: ends[1]};
  return [{...shape, fillcolor: colors().band, line, layer: 'below'}];
}

export function rangeOf(scale) {
  const [low, high] = scale.log ? [Math.log10(scale.low), Math.log10(scale.high)] : [scale.low, scale.high];
  const margin = 0.05 * (high - low);
  return [low - margin, high + margin];
}

// `hidden` are the ids of modules that the user switched off.
export function drawCurves(element, run, quantity, scale, view, hidden, onZoom) {
  const traces = [];
  run.modules.forEach((module, i) => {
    const series = quantity.series.get(module.id);
    if (!series || hidden.has(module.id)) return;
    const color = lineColor(i, run.modules.length);
    traces.push(lineOf(module, series, color, scale), ...marksOf(module, series, color, i));
  });
  const range = view.y ?? rangeOf(scale);
  const layout = layoutOf(run, view, {
    height: 290,
    shapes: bandOf(scale, rangeOf(scale)),
    yaxis: {
      type: scale.log ? 'log' : 'linear',
      range: [...range],
      exponentformat: 'power',
      tickfont: {size: 11},
      dtick: scale.log && range[1] - range[0] > 3 ? Math.ceil((range[1] - range[0]) / 6) : undefined,
    },
    yaxis2: {overlaying: 'y', range: [0, 1], fixedrange: true, visible: false},
  });
  draw(element, traces, layout, onZoom);
}
