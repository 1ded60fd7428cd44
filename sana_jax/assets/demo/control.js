'use strict';
/* Control image of a ControlNet. */
(() => {
  const config = JSON.parse(document.getElementById('sana-config').textContent);
  const MOST_TEXT = 4e6; // Characters of the image, beside that of edit.js.
  const MOST_STRETCH = 0.1; // As the server has it, of log ratios.
  let on = false; // Whether there is an image.

  const part = (name) => document.querySelector(`#control [data-${name}]`);

  /* Its data URL, '' for none; {} if there is no ControlNet. */
  sana.controlFiles = () => part('picture')
    ? {control_image: on ? sana.encoded(part('picture'), MOST_TEXT) : ''} : {};

  function show(value) {
    on = value;
    part('shown').hidden = !value;
    document.body.classList.toggle('sana-controlled', value);
  }

  /* Chooses the size of its ratio, if the model has one. */
  function fit([width, height]) {
    const off = (size) => Math.abs(Math.log(size[0] / size[1] * height / width));
    const [nearest] = Object.values(config.sizes).sort((a, b) => off(a) - off(b));
    if (nearest && off(nearest) <= MOST_STRETCH) {
      sana.fill({width: nearest[0], height: nearest[1]});
    }
  }

  document.addEventListener('change', async (event) => {
    const {target} = event;
    const file = target.files?.[0];
    if (!file || !target.matches('#control [data-image]')) return;
    target.value = '';
    try {
      const size = await sana.place(file, part('picture'));
      show(true);
      fit(size);
    } catch (error) {
      sana.show(error.message);
    }
  });
  document.addEventListener('click', (event) => {
    if (event.target.matches?.('#control [data-remove]')) show(false);
  });
})();
