'use strict';
/* What this tab has made: thumbnails and settings, kept by the browser. */
(() => {
  const KEY = 'sana-history';
  const MOST = 24;
  const SIDE = 96; // Pixels of a thumbnail.
  let entries = read();

  /* Adds pictures as soon as the first can be drawn; known ones are left. */
  sana.remember = async (grid) => {
    const made = JSON.parse(grid.dataset.made);
    const key = made.pictures[0].src;
    if (entries.some((entry) => entry.key === key)) return;
    const entry = {
      key, settings: made.settings, html: grid.outerHTML, thumbnail: '',
    };
    entries = [entry, ...entries].slice(0, MOST);
    draw();
    entry.thumbnail = await thumbnail(key).catch(() => '');
    draw();
    write();
  };

  sana.drawHistory = draw;

  async function thumbnail(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL('image/jpeg', 0.85);
  }

  function draw() {
    const section = document.querySelector('#history section');
    if (!section) return;
    section.hidden = !entries.length;
    section.querySelector('ul').replaceChildren(...entries.map(item));
  }

  function item(entry) {
    const {prompt, seed} = entry.settings;
    const button = document.createElement('button');
    button.type = 'button';
    button.title = `${prompt} (seed ${seed})`;
    button.setAttribute('aria-label', `Show again: ${button.title}`);
    button.addEventListener('click', () => show(entry));
    if (entry.thumbnail) {
      const image = new Image();
      image.alt = '';
      image.src = entry.thumbnail;
      button.append(image);
    }
    const place = document.createElement('li');
    place.append(button);
    return place;
  }

  /* Shows the pictures again, with their settings in the fields. */
  async function show(entry) {
    const there = await fetch(entry.key, {method: 'HEAD'})
      .then((answer) => answer.ok, () => false);
    sana.fill(entry.settings, {pictures: there ? entry.html : undefined});
    if (!there) {
      sana.show(
        'The server no longer stores this picture; its settings are filled '
        + 'in, and Draw makes it again.', 'hint');
    }
  }

  function read() {
    try {
      const found = JSON.parse(sessionStorage.getItem(KEY)) ?? [];
      return found.filter((entry) => entry.key && entry.settings).slice(0, MOST);
    } catch {
      return [];
    }
  }

  /* Stores as many of the newest entries as the browser allows. */
  function write() {
    for (let count = entries.length; count >= 0; count -= 4) {
      try {
        sessionStorage.setItem(KEY, JSON.stringify(entries.slice(0, count)));
        return;
      } catch {
        continue;
      }
    }
  }

  document.addEventListener('click', (event) => {
    if (!event.target.closest?.('#history [data-clear]')) return;
    entries = [];
    write();
    draw();
    document.querySelector('#prompt textarea')?.focus();
  });
})();
