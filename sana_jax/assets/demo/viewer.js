'use strict';
/* One picture in a dialog: arrow keys, download, Escape. */
(() => {
  let dialog;

  /* Opens the picture with this index in the grid. */
  sana.enlarge = (index) => {
    dialog ??= made();
    dialog.dataset.index = index;
    draw(0);
    if (!dialog.open) dialog.showModal();
  };

  function figures() {
    return [...document.querySelectorAll('#pictures [data-made] figure')];
  }

  /* Moves by some pictures, around the end. */
  function draw(step) {
    const all = figures();
    if (!all.length) return dialog.close();
    const index = (Number(dialog.dataset.index) + step + all.length)
      % all.length;
    dialog.dataset.index = index;
    const image = all[index].querySelector('img');
    const link = all[index].querySelector('a');
    const shown = dialog.querySelector('img');
    shown.src = image.src;
    shown.alt = image.alt;
    shown.style.aspectRatio = `${image.width} / ${image.height}`;
    dialog.querySelector('p').textContent =
      `${image.alt} (${all[index].querySelector('span').textContent})`;
    const download = dialog.querySelector('a');
    download.href = link.href;
    download.download = link.download;
    dialog.querySelectorAll('[data-step]').forEach((button) => {
      button.hidden = all.length < 2;
    });
  }

  function made() {
    const box = document.createElement('dialog');
    box.className = 'sana-viewer';
    box.setAttribute('aria-label', 'Picture');
    box.innerHTML = `
      <img alt="">
      <p></p>
      <div>
        <button type="button" data-step="-1">Previous</button>
        <button type="button" data-step="1">Next</button>
        <a class="sana-button">Download</a>
        <button type="button" data-close autofocus>Close</button>
      </div>`;
    box.addEventListener('click', (event) => {
      const step = event.target.dataset.step;
      if (step) draw(Number(step));
      if (event.target === box || 'close' in event.target.dataset) box.close();
    });
    box.addEventListener('keydown', (event) => {
      if (event.key === 'ArrowLeft') draw(-1);
      if (event.key === 'ArrowRight') draw(1);
    });
    document.body.append(box);
    return box;
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('.sana-open');
    if (button) sana.enlarge(button.dataset.index);
  });
})();
