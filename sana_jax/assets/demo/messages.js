'use strict';
/* Errors and hints beside the pictures, which close by themselves. */
(() => {
  sana.messageSeconds = 10;

  /* Shows a text; `kind` is 'error' or 'hint'. */
  sana.show = (text, kind = 'error') => {
    const place = document.querySelector('#messages [role=alert]');
    if (!place || !text.trim()) return;
    const box = document.createElement('div');
    box.className = `sana-message ${kind}`;
    const words = document.createElement('p');
    words.textContent = text.trim();
    const close = document.createElement('button');
    close.type = 'button';
    close.textContent = '×';
    close.setAttribute('aria-label', 'Close the message');
    close.addEventListener('click', () => {
      box.remove();
      document.querySelector('#prompt textarea')?.focus();
    });
    box.append(words, close);
    place.replaceChildren(box);
    closeLater(box);
  };

  sana.closeMessages = () => {
    document.querySelectorAll('.sana-message').forEach((box) => box.remove());
  };

  /* Closes it after some seconds in which it is not hovered or focused. */
  function closeLater(box) {
    let timer;
    const wait = () => {
      clearTimeout(timer);
      timer = setTimeout(() => box.remove(), sana.messageSeconds * 1000);
    };
    const hold = () => clearTimeout(timer);
    const release = () => {
      if (!box.matches(':hover') && !box.contains(document.activeElement)) {
        wait();
      }
    };
    box.addEventListener('mouseenter', hold);
    box.addEventListener('focusin', hold);
    box.addEventListener('mouseleave', release);
    box.addEventListener('focusout', () => setTimeout(release));
    wait();
  }

  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !document.querySelector('dialog[open]')) {
      sana.closeMessages();
    }
  });
})();
