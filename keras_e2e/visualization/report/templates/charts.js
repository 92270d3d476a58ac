// Draws each chart when it comes near, in the colors of the page.
(() => {
  'use strict';
  const PRINTED = 660; // pixels that fit on a sheet of A4 or Letter
  const charts = [...document.querySelectorAll('.chart')];
  const drawn = new Set();
  // On a touch screen a finger on a chart must scroll the page.
  const touch = matchMedia('(pointer: coarse)').matches;
  const screen = () => ({
    'font.color': getComputedStyle(document.documentElement).getPropertyValue('--ink'),
  });

  function draw(div) {
    if (drawn.has(div)) return;
    drawn.add(div);
    const data = document.getElementById(`${div.id}-data`).textContent;
    const figure = JSON.parse(data);
    const layout = {...figure.layout, dragmode: touch ? false : 'zoom'};
    // Where the names stand below one another, they must not eat up the curves.
    if (div.clientWidth < 500 && layout.showlegend) layout.height += 8 * figure.data.length;
    layout.font.color = screen()['font.color'];
    layout.hoverlabel = {bgcolor: '#ffffff', font: {color: '#1b1f24'}};
    layout.modebar = {bgcolor: 'rgba(0, 0, 0, 0)', color: '#808890', activecolor: '#2f81c1'};
    const config = {responsive: true, displaylogo: false, displayModeBar: touch ? false : 'hover'};
    Plotly.newPlot(div, figure.data, layout, config);
  }

  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, {rootMargin: '600px'});
  charts.forEach(div => near.observe(div));

  const recolor = () => drawn.forEach(div => Plotly.relayout(div, screen()));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolor);
  addEventListener('beforeprint', () => {
    charts.forEach(draw);
    charts.forEach(div => Plotly.relayout(div, {width: PRINTED, 'font.color': '#000000'}));
  });
  addEventListener('afterprint', () => {
    charts.forEach(div => Plotly.relayout(div, {autosize: true, width: null, ...screen()}));
  });
})();
