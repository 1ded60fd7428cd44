'use strict';
/* Image that drawings start from, and a mask painted on it. */
(() => {
  const config = JSON.parse(document.getElementById('sana-config').textContent);
  const MOST_TEXT = 8e6; // Characters of an image; a larger one becomes a JPEG.
  let on = false; // Whether there is an image,
  let masked = false; // and anything painted on it.
  let last = null; // Where the brush was, while it paints.

  const part = (name) => document.querySelector(`#edit [data-${name}]`);

  /* Data URLs of the image and the mask; '' for none. */
  sana.files = () => ({
    image: on ? encoded(part('picture')) : '',
    mask: on && masked ? blackAndWhite(part('mask')) : '',
  });

  function encoded(canvas, most = MOST_TEXT) {
    const png = canvas.toDataURL('image/png');
    return png.length < most ? png : canvas.toDataURL('image/jpeg', 0.95);
  }
  sana.encoded = encoded;

  function blackAndWhite(canvas) {
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const pixels = canvas.getContext('2d')
      .getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3] > 127 ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    copy.getContext('2d').putImageData(pixels, 0, 0);
    return copy.toDataURL('image/png');
  }

  async function opened(file) {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    try {
      await image.decode();
    } catch {
      throw new Error('This file is not an image that the browser can read.');
    } finally {
      URL.revokeObjectURL(image.src);
    }
    return image;
  }

  /* Puts an image on a canvas, scaled to the largest side of the server. */
  sana.place = async (file, canvas) => {
    const image = await opened(file);
    const scale = Math.min(1, config.most / Math.max(image.width, image.height));
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    const context = canvas.getContext('2d');
    context.fillStyle = 'white'; // Behind what is transparent.
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return [canvas.width, canvas.height];
  };

  async function start(file) {
    const [width, height] = await sana.place(file, part('picture'));
    [part('mask').width, part('mask').height] = [width, height];
    show(true);
    sana.fill({width, height});
  }

  async function mask(file) {
    const image = await opened(file);
    const canvas = part('mask');
    const context = canvas.getContext('2d', {willReadFrequently: true});
    context.globalCompositeOperation = 'source-over';
    context.fillStyle = 'black';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    const {data} = pixels;
    masked = false;
    for (let i = 0; i < data.length; i += 4) {
      const white = 2 * (data[i] + 2 * data[i + 1] + data[i + 2]) >= 4 * 256;
      data.set([220, 38, 38, white ? 255 : 0], i);
      masked ||= white;
    }
    context.putImageData(pixels, 0, 0);
  }

  function show(value) {
    [on, masked] = [value, false];
    part('editor').hidden = !value;
    document.body.classList.toggle('sana-editing', value);
    clear();
  }

  function clear() {
    const canvas = part('mask');
    canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
    masked = false;
  }

  function place(event) {
    const box = part('mask').getBoundingClientRect();
    return [
      (event.clientX - box.left) / box.width * part('mask').width,
      (event.clientY - box.top) / box.height * part('mask').height,
    ];
  }

  function paint(event) {
    const canvas = part('mask');
    const context = canvas.getContext('2d');
    const now = place(event);
    const side = Math.min(canvas.width, canvas.height);
    context.lineWidth = Math.max(1, side * part('brush').value / 100);
    context.lineCap = context.lineJoin = 'round';
    context.strokeStyle = 'rgb(220 38 38)';
    context.beginPath();
    context.moveTo(...(last ?? now));
    context.lineTo(...now);
    context.stroke();
    [last, masked] = [now, true];
  }

  document.addEventListener('pointerdown', (event) => {
    if (!event.target.matches?.('#edit [data-mask]') || event.button) return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    last = null;
    paint(event);
  });
  document.addEventListener('pointermove', (event) => {
    if (last) paint(event);
  });
  for (const end of ['pointerup', 'pointercancel']) {
    document.addEventListener(end, () => { last = null; });
  }

  document.addEventListener('change', async (event) => {
    const {target} = event;
    const file = target.files?.[0];
    if (!file || !target.matches('#edit input[type=file]')) return;
    target.value = '';
    try {
      await (target.matches('[data-image]') ? start : mask)(file);
    } catch (error) {
      sana.show(error.message);
    }
  });
  document.addEventListener('click', (event) => {
    if (event.target.matches?.('#edit [data-unmask]')) clear();
    if (event.target.matches?.('#edit [data-remove]')) show(false);
  });
})();
