// The heat map module by step of one quantity of one run.

import {draw, label, layoutOf, plain, shapesOf} from './charts.js';
import {number, plural, whole} from './dom.js';
import {colorScale, colorTicks, inBand, place} from './scale.js';
import {colors} from './theme.js';

// Cells without a number get a layer of their own: the scale has no color for them.
export function special(value) {
  if (Number.isFinite(value)) return null;
  return Number.isNaN(value) ? 0 : value > 0 ? 1 : 2;
}

export const SPECIAL = ['NaN', '+∞', '−∞'];

export function specialColors() {
  const look = colors();
  return [look.nan, look.inf, look.minusInf];
}

export function describe(module, quantity, cell, scale) {
  if (!cell) return `${module.number} ${module.name}: no measurement here`;
  const judged = inBand(scale, cell.value);
  const text = `${quantity} ${number(cell.value)}${judged && `, ${judged}`}`;
  return `${module.number} ${module.name}, step ${whole(cell.step)}: ${text}`;
}

export function heightOf(run) {
  const row = run.modules.length > 24 ? 13 : run.modules.length > 8 ? 20 : 34;
  return 64 + Math.max(110, row * run.modules.length);
}

function cursorOf(cells, cursor) {
  if (!cursor) return [];
  const {row, column} = cursor;
  const line = {color: '#ffffff', width: 5};
  const box = {type: 'rect', x0: cells.edges[column], x1: cells.edges[column + 1], y0: row - 0.5, y1: row + 0.5};
  return [
    {...box, line},
    {...box, line: {color: '#d50000', width: 2}},
  ];
}

export function moveCursor(element, run, cells, view, cursor) {
  // Marks only: to draw all the cells again takes long for many modules.
  window.Plotly.relayout(element, {shapes: shapesOf(run, view, cursorOf(cells, cursor))});
}

// `cells` are those of `grid`; `cursor` the cell that the keyboard is at.
export function drawHeatMap(element, run, quantity, cells, scale, view, cursor, onZoom) {
  const look = colors();
  const at = (choose) => cells.rows.map((row) => row.map((cell) => (cell ? choose(cell.value) : null)));
  const hover = cells.rows.map((row, i) =>
    row.map((cell) => plain(describe(run.modules[i], quantity.name, cell, scale)).replace(': ', '<br>')),
  );
  const common = {
    type: 'heatmap',
    x: cells.edges,
    y: run.modules.map((_, i) => i),
    text: hover,
    hovertemplate: '%{text}<extra></extra>',
    hoverongaps: false,
    zsmooth: false,
  };
  const ticks = colorTicks(scale);
  const marks = specialColors();
  const traces = [
    {
      ...common,
      z: at((value) => (Number.isFinite(value) ? place(scale, value) : null)),
      zmin: 0,
      zmax: 1,
      colorscale: colorScale(scale),
      showscale: !scale.empty,
      colorbar: {
        thickness: 12,
        x: 1.01,
        xpad: 2,
        ypad: 0,
        len: 1,
        y: 0.5,
        outlinewidth: 0,
        tickvals: ticks.map((tick) => place(scale, tick.value)),
        ticktext: ticks.map((tick) => tick.text),
        ticks: 'outside',
        tickcolor: look.text,
        tickfont: {size: 11},
      },
    },
    {
      ...common,
      z: at(special),
      zmin: -0.5,
      zmax: 2.5,
      colorscale: marks.flatMap((color, i) => [[i / 3, color], [(i + 1) / 3, color]]),
      showscale: false,
    },
  ];
  // Mostly there are none.
  if (!traces[1].z.some((row) => row.some((cell) => cell !== null))) traces.pop();
  const layout = layoutOf(run, view, {
    height: heightOf(run),
    shapes: cursorOf(cells, cursor),
    yaxis: {
      range: [run.modules.length - 0.5, -0.5],
      fixedrange: true,
      showgrid: false,
      tickvals: run.modules.map((_, i) => i),
      ticktext: run.modules.map((module) => plain(label(module, view.width))),
      tickfont: {size: run.modules.length > 24 ? 10 : 12},
    },
  });
  layout.xaxis.showgrid = false;
  draw(element, traces, layout, onZoom);
}

// What the legend below has to explain: the special cells that occur, and empty ones.
export function occurring(cells) {
  const all = cells.rows.flat();
  const count = [0, 0, 0];
  for (const cell of all) if (cell && special(cell.value) !== null) count[special(cell.value)] += 1;
  const notes = SPECIAL.flatMap((name, i) =>
    count[i] ? [{color: specialColors()[i], text: `${name} (${plural(count[i], 'cell')})${i ? '' : ': undefined here'}`}] : [],
  );
  if (all.includes(null)) notes.push({color: colors().plot, text: 'no measurement'});
  return notes;
}
