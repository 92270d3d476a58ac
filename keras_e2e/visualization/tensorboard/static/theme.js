// Light and dark. TensorBoard does not tell its plugins which one it shows.

const KEY = 'keras_e2e.theme';
export const THEMES = ['system', 'light', 'dark'];
const system = window.matchMedia('(prefers-color-scheme: dark)');

// Storage may be forbidden: the page works without a memory.
export function remember(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // Not kept, then.
  }
}

export function recall(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

export function theme() {
  const kept = recall('localStorage', KEY);
  return THEMES.includes(kept) ? kept : 'system';
}

function dark(name) {
  return name === 'dark' || (name === 'system' && system.matches);
}

let current = theme();

export function setTheme(name) {
  current = name;
  remember('localStorage', KEY, name);
  document.documentElement.dataset.theme = name;
}

export function onSystemChange(callback) {
  system.addEventListener('change', callback);
}

// Plotly takes colors, not variables of CSS. Special cells have colors that no scale has.
export function colors() {
  const onDark = dark(current);
  return {
    dark: onDark,
    text: onDark ? '#e8eaed' : '#202124',
    faint: onDark ? '#3c4043' : '#dadce0',
    paper: onDark ? '#202124' : '#ffffff',
    plot: onDark ? '#2b2c2f' : '#f1f3f4',
    mark: onDark ? '#ffffff' : '#000000',
    band: onDark ? 'rgba(129, 201, 149, 0.20)' : 'rgba(52, 168, 83, 0.16)',
    // Undefined is no alarm: a quiet gray. Overflown numbers stand out.
    nan: onDark ? '#8a8f96' : '#9aa0a6',
    inf: onDark ? '#ffffff' : '#000000',
    minusInf: '#e535ab',
  };
}

// Few modules: colors that are easily told apart. Many: a row of hues in their order.
const FEW = {
  light: ['#1f77b4', '#d95f02', '#2a9d4a', '#c2185b', '#7b4fb5', '#8c564b', '#0f8b8d', '#6d6d00'],
  dark: ['#6cb4ee', '#ffa15a', '#7ddc8f', '#ff7eb0', '#c3a3f5', '#d6a79b', '#5fd3d5', '#d8d86a'],
};

export function lineColor(index, count) {
  const onDark = dark(current);
  const few = FEW[onDark ? 'dark' : 'light'];
  if (count <= few.length) return few[index];
  return `hsl(${Math.round(250 - (240 * index) / (count - 1))}, 70%, ${onDark ? 65 : 42}%)`;
}
