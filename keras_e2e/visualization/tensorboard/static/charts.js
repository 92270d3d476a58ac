// What heat map and curves have in common: drawing, axes, marks of the mode, zoom.

import {middle} from './dom.js';
import {colors} from './theme.js';

// Letters of a name at most, beside a wide chart and a narrow one.
const LABEL = 22;
const NARROW = {width: 520, label: 11};

// Plotly reads <b>, <br>, <a> and entities in labels and read-outs.
export function plain(text) {
  return text
    .replace(/[\u0000-\u001f\u007f]/g, ' ')
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/>/g, '&gt;');
}

export function label(module, width) {
  return middle(`${module.number} ${module.name}`, width < NARROW.width ? NARROW.label : LABEL);
}

// The same margins in all charts of a run, so that a step is at one place in them.
export function margins(run, width) {
  const longest = Math.max(4, ...run.modules.map((module) => label(module, width).length));
  return {l: 20 + 6.4 * longest, r: width < NARROW.width ? 62 : 84, t: 26, b: 38, autoexpand: false};
}

function switchLines(run, view) {
  const width = view.x[1] - view.x[0];
  let free = -Infinity;
  const shapes = [];
  const notes = [];
  run.switches.forEach(([step, mode], i) => {
    const from = Math.max(step, view.x[0]);
    const until = run.switches[i + 1]?.[0] ?? Infinity;
    if (from > view.x[1] || until <= view.x[0]) return;
    if (i > 0 && step >= view.x[0]) {
      const line = {color: colors().mark, width: 1.5, dash: 'dash'};
      shapes.push({type: 'line', x0: step, x1: step, yref: 'paper', y0: 0, y1: 1.02, line});
    }
    // Names that would cover each other are left out; they stand above the chart, too.
    if (from < free) return;
    free = from + (width * (mode.length + 2)) / view.letters;
    const note = {x: from, xanchor: 'left', yref: 'paper', y: 1, yanchor: 'bottom', showarrow: false};
    notes.push({...note, text: plain(mode), font: {size: 11}});
  });
  return {shapes, notes};
}

export function shapesOf(run, view, others = []) {
  return [...others, ...switchLines(run, view).shapes];
}

// `view` has the steps that are shown, `x`, the `width` in pixels, and how many `letters` fit
// across. Plotly by itself keeps to the width that it found first.
export function layoutOf(run, view, extra) {
  const look = colors();
  const {notes} = switchLines(run, view);
  const axis = {gridcolor: look.faint, zeroline: false, linecolor: look.faint, tickcolor: look.faint};
  return {
    paper_bgcolor: look.paper,
    plot_bgcolor: look.plot,
    font: {color: look.text, size: 12, family: 'Roboto, system-ui, sans-serif'},
    margin: margins(run, view.width),
    width: view.width,
    height: extra.height,
    showlegend: false,
    hovermode: 'closest',
    hoverlabel: {align: 'left', namelength: -1},
    dragmode: 'zoom',
    xaxis: {...axis, range: [...view.x], title: {text: 'step', standoff: 6}},
    yaxis: {...axis, ...extra.yaxis},
    ...(extra.yaxis2 && {yaxis2: extra.yaxis2}),
    shapes: shapesOf(run, view, extra.shapes),
    annotations: notes,
  };
}

// `onZoom` gets the ranges that the user chose, or null where the axis was set back.
export function draw(element, traces, layout, onZoom) {
  window.Plotly.react(element, traces, layout, {
    displayModeBar: false,
    doubleClick: 'autosize',
  });
  if (element.dataset.wired) return;
  element.dataset.wired = 'yes';
  element.on('plotly_relayout', (change) => {
    const chosen = {};
    for (const axis of ['x', 'y']) {
      if (`${axis}axis.range[0]` in change) {
        chosen[axis] = [change[`${axis}axis.range[0]`], change[`${axis}axis.range[1]`]];
      } else if (`${axis}axis.autorange` in change) {
        chosen[axis] = null;
      }
    }
    if (Object.keys(chosen).length) onZoom(chosen);
  });
}

export function clear(element) {
  if (element.dataset.wired) window.Plotly.purge(element);
  delete element.dataset.wired;
}
