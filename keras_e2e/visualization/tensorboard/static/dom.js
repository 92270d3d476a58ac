// Elements without markup: names of runs and modules are other people's text, and reach
// the page as text nodes and attributes only.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// Made once: a read-out is written for tens of thousands of cells.
const WHOLE = new Intl.NumberFormat('en');
const THREE = new Intl.NumberFormat('en', {maximumSignificantDigits: 3});

// A number for people: 5.03e-5, 0.0123, 12.3, 12,345.
export function number(value) {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '+∞' : '−∞';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    return value.toExponential(2).replace('-', '−').replace('e−', 'e-');
  }
  return THREE.format(value).replace('-', '−');
}

export function whole(value) {
  return WHOLE.format(value);
}

// A long name keeps its beginning and its end, which tells modules apart.
export function middle(text, longest) {
  if (text.length <= longest) return text;
  const head = Math.ceil((longest - 1) / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (longest - 1 - head))}`;
}

// The short name for the eyes, the full one for screen readers and under the mouse.
export function named(attributes, text, longest) {
  const short = middle(text, longest);
  if (short === text) return h('span', attributes, text);
  const full = h('span', {class: 'unseen'}, text);
  return h('span', {...attributes, title: text}, h('span', {'aria-hidden': 'true'}, short), full);
}

// Replaces what an element holds. Parts that were open stay open, scrolled and in focus.
export function renew(element, ...children) {
  const open = [...element.querySelectorAll('details[open]')].map((part) => part.dataset.part);
  const scrolled = [...element.children].map((child) => [child.scrollLeft, child.scrollTop]);
  const stops = () => [...element.querySelectorAll('a, summary, [tabindex]')];
  const focused = stops().indexOf(document.activeElement);
  element.replaceChildren(...children);
  for (const part of element.querySelectorAll('details')) part.open = open.includes(part.dataset.part);
  scrolled.forEach(([left, top], i) => element.children[i]?.scrollTo({left, top, behavior: 'instant'}));
  if (focused >= 0) stops()[focused]?.focus({preventScroll: true});
}

export function plural(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? '' : 's'}`;
}
