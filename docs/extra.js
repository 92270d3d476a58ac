// The theme gives the dialog of its search no name, which screen readers need, and wide code of
// notebooks cannot be scrolled by keyboard.
document.querySelector('.md-search[role="dialog"]')?.setAttribute('aria-label', 'Search');
document.querySelectorAll('.highlight-ipynb').forEach((code) => code.setAttribute('tabindex', '0'));
// Wide tables, those that notebooks print among them, and the buttons of each block of code: the
// theme makes them once it is loaded.
addEventListener('load', () => {
  document.querySelectorAll('.md-typeset__scrollwrap, .jp-RenderedHTMLCommon pre').forEach((table) => {
    if (table.scrollWidth > table.clientWidth) table.setAttribute('tabindex', '0');
  });
  document.querySelectorAll('.md-code__nav').forEach((buttons, i) => {
    buttons.setAttribute('aria-label', `Code ${i + 1}`);
  });
});
