// The colors and axis of a quantity, common to all the runs that are shown.

import {number} from './dom.js';

const BELOW = ['#084594', '#2171b5', '#6baed6', '#c6dbef'];
const WITHIN = ['#e5f5e0', '#a1d99b'];
const ABOVE = ['#fdd0a2', '#fd8d3c', '#d94801', '#7f2704'];
const PLAIN = ['#440154', '#3b528b', '#21918c', '#5ec962', '#fde725'];

// `choice` is 'auto', 'log' or 'linear'. Zeros do not prevent a logarithmic scale (a
// signal-to-noise ratio is often cut off at zero): they take the color of its low end.
export function scaleOf(quantities, choice) {
  const values = quantities
    .flatMap((quantity) => [...quantity.series.values()].flatMap((s) => s.values))
    .filter(Number.isFinite)
    .sort((a, b) => a - b);
  const band = quantities.find((quantity) => quantity.band)?.band ?? null;
  const positive = values.slice(values.findIndex((value) => value > 0));
  const canLog = values.length > 0 && values[0] >= 0 && values.at(-1) > 0;
  const ends = (band ?? []).filter((end) => Number.isFinite(end) && end > 0);
  const spans = canLog && Math.max(positive.at(-1), ...ends) / Math.min(positive[0], ...ends) > 50;
  const log = canLog && (choice === 'log' || (choice === 'auto' && spans));
  if (!values.length) return {log: false, low: 0, high: 1, band, canLog, empty: true};
  // A few stray low measurements would take most of the colors of a logarithmic scale.
  let low = log ? positive[Math.floor(0.01 * positive.length)] : values[0];
  let high = values.at(-1);
  for (const end of band ?? []) {
    if (!Number.isFinite(end) || (log && end <= 0)) continue;
    low = Math.min(low, end);
    high = Math.max(high, end);
  }
  if (low === high) {
    [low, high] = log ? [low / 2, high * 2] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
  }
  return {log, low, high, band, canLog, clipped: log && values[0] < low, empty: false};
}

// Where a value stands between the ends: 0 to 1 within them, and cut off there.
export function place(scale, value) {
  const {log, low, high} = scale;
  if (log && value <= low) return 0;
  const at = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return Math.min(1, Math.max(0, at));
}

// The ends must be exact: plotly takes colors of its own where a scale ends at .999.
function spread(colors, from, to) {
  const last = colors.length - 1;
  return colors.map((color, i) => [i === last ? to : from + ((to - from) * i) / last, color]);
}

// Blue below the healthy band, pale green within, orange above; without a band plain.
export function colorScale(scale) {
  if (!scale.band) return spread(PLAIN, 0, 1);
  const low = scale.band[0] === -Infinity ? 0 : place(scale, scale.band[0]);
  const high = scale.band[1] === Infinity ? 1 : place(scale, scale.band[1]);
  return [
    ...(low > 0 ? spread(BELOW, 0, low) : []),
    ...spread(WITHIN, low, high),
    ...(high < 1 ? spread(ABOVE, high, 1) : []),
  ];
}

// The ends of decades are short: 1e-9 where `number` says 1.00e-9.
function tickText(value) {
  const power = Math.log10(value);
  return Number.isInteger(power) && Math.abs(power) > 3 ? `1e${power}` : number(value);
}

function round(scale) {
  const {log, low, high} = scale;
  if (!log) return Array.from({length: 5}, (_, i) => low + ((high - low) * i) / 4);
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const every = Math.max(1, Math.ceil((last - first) / 5));
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(Number(`1e${power}`));
  return ticks.length > 1 ? ticks : [low, high];
}

// The ends of the band are named; ticks that would be in their way are left out.
export function colorTicks(scale) {
  const ends = (scale.band ?? [])
    .filter((end) => Number.isFinite(end) && (!scale.log || end > 0))
    .map((end) => ({value: end, text: `<b>${tickText(end)}</b>`}));
  const others = round(scale)
    .filter((tick) => ends.every((end) => Math.abs(place(scale, end.value) - place(scale, tick)) > 0.07))
    .map((tick) => ({value: tick, text: tickText(tick)}));
  if (scale.clipped && others.length && place(scale, others[0].value) === 0) {
    others[0].text = `≤ ${others[0].text}`;
  }
  return [...others, ...ends].sort((a, b) => a.value - b.value);
}

// What the colors mean, for the legend.
export function bandLegend(scale) {
  if (!scale.band || scale.empty) return [];
  const [low, high] = scale.band;
  const shown = colorScale(scale).map(([, color]) => color);
  const entry = (color, text) => (shown.includes(color) ? [{color, text}] : []);
  return [
    ...entry(BELOW[1], 'below'),
    ...entry(WITHIN[1], `healthy: ${number(low)} to ${number(high)} (a heuristic)`),
    ...entry(ABOVE[1], 'above'),
  ];
}

export function inBand(scale, value) {
  if (!scale.band || !Number.isFinite(value)) return '';
  if (value < scale.band[0]) return 'below the healthy band';
  return value > scale.band[1] ? 'above the healthy band' : 'healthy';
}
