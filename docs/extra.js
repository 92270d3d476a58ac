// The theme gives the dialog of its search no name, which screen readers need, and wide code of
// notebooks cannot be scrolled by keyboard.
document.querySelector('.md-search[role="dialog"]')?.setAttribute('aria-label', 'Search');
document.querySelectorAll('.highlight-ipynb').forEach((code) => code.setAttribute('tabindex', '0'));
