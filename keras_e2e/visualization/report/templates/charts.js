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

  // What all charts have in common.
  const gray = 'rgba(128, 128, 128, 0.3)';
  const axis = {gridcolor: gray, zerolinecolor: gray, linecolor: gray};
  const common = {
    margin: {l: 56, r: 12, t: 26, b: 44},
    paper_bgcolor: 'rgba(0, 0, 0, 0)',
    plot_bgcolor: 'rgba(128, 128, 128, 0.07)',
    legend: {orientation: 'h', y: -0.22, yanchor: 'top', x: 0},
    modebar: {bgcolor: 'rgba(0, 0, 0, 0)', color: '#808890', activecolor: '#2f81c1'},
    hoverlabel: {bgcolor: '#ffffff', font: {color: '#1b1f24'}},
  };

  // The cells of a heat map are shown as they are, and colored by their logarithms.
  function logarithms(trace) {
    if (trace.type !== 'heatmap') return;
    trace.customdata = trace.z;
    if (trace.meta.log) trace.z = trace.z.map(row => row.map(cell => cell === null ? null : Math.log10(cell)));
  }

  function draw(div) {
    if (drawn.has(div)) return;
    drawn.add(div);
    const data = document.getElementById(`${div.id}-data`).textContent;
    const figure = JSON.parse(data);
    figure.data.forEach(logarithms);
    const layout = {...common, ...figure.layout, dragmode: touch ? false : 'zoom'};
    layout.xaxis = {title: {text: 'step', standoff: 4}, tickformat: ',d', ...axis, ...layout.xaxis};
    layout.yaxis = {exponentformat: 'power', ...axis, ...layout.yaxis};
    layout.font = {family: 'system-ui, sans-serif', size: 12};
    // Where the names stand below one another, they must not eat up the curves.
    if (div.clientWidth < 500 && layout.showlegend) layout.height += 8 * figure.data.length;
    layout.font.color = screen()['font.color'];
    const config = {responsive: true, displaylogo: false, displayModeBar: touch ? false : 'hover'};
    Plotly.newPlot(div, figure.data, layout, config);
  }

  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, {rootMargin: '600px'});
  charts.forEach(div => near.observe(div));

  const recolor = () => drawn.forEach(div => Plotly.relayout(div, screen()));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolor);
  // A link to a run opens it.
  const reveal = () => {
    const details = document.getElementById(location.hash.slice(1))?.closest('details');
    if (details) details.open = true;
  };
  addEventListener('hashchange', reveal);
  reveal();
  addEventListener('beforeprint', () => {
    document.querySelectorAll('details').forEach(each => { each.open = true; });
    charts.forEach(draw);
    charts.forEach(div => Plotly.relayout(div, {width: PRINTED, 'font.color': '#000000'}));
  });
  addEventListener('afterprint', () => {
    charts.forEach(div => Plotly.relayout(div, {autosize: true, width: null, ...screen()}));
  });
})();
