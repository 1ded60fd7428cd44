'use strict';
/* Draws while the prompt is typed, with the same seed. */
(() => {
  const PAUSE = 250; // Milliseconds without a key.
  let timer;
  let waiting = false; // Whether words were typed during a drawing.
  sana.typed = false; // Whether the next drawing follows a key.

  const isOn = () => document.querySelector('#typing input')?.checked;
  const isDrawing = () => document.querySelector('#progress progress') !== null;

  function draw() {
    const prompt = document.querySelector('#prompt textarea');
    if (!isOn() || !prompt?.value.trim()) return;
    waiting = isDrawing();
    if (waiting) return;
    sana.typed = true;
    document.getElementById('draw').click();
  }

  document.addEventListener('input', (event) => {
    if (!event.target.matches?.('#prompt textarea')) return;
    clearTimeout(timer);
    timer = setTimeout(draw, PAUSE);
  });

  new MutationObserver(() => {
    if (waiting && !isDrawing()) draw();
  }).observe(document.documentElement, {childList: true, subtree: true});
})();
