'use strict';
/* Events of the page's widgets, and what its scripts put into them. */
(() => {
  const config = JSON.parse(document.getElementById('sana-config').textContent);
  const SEED = config.keys.indexOf('seed');
  let pending = null; // What the next click on the hidden button restores.
  let lastError, lastPictures;

  sana.seed = () => Math.floor(Math.random() * 2 ** 31);
  sana.size = (label) => config.sizes[label];

  /* Inputs of a request: a new seed, unless it is kept or words are typed. */
  sana.start = (values) => {
    sana.closeMessages();
    const inputs = values.slice(0, config.keys.length);
    const typed = sana.typed;
    sana.typed = false;
    if (!typed && !document.querySelector('#keep input').checked) {
      inputs[SEED] = sana.seed();
    }
    const files = {...sana.files(), ...sana.controlFiles()};
    for (const [key, file] of Object.entries(files)) {
      inputs[config.keys.indexOf(key)] = file;
    }
    const result = document.getElementById('result');
    if (!typed && result.getBoundingClientRect().top > innerHeight - 200) {
      result.scrollIntoView({behavior: 'smooth'});
    }
    return inputs;
  };

  /* Pictures, progress and status after a click on Stop. */
  sana.stopped = ([pictures, progress, status]) => (
    progress ? ['', '', '<p>Stopped.</p>'] : [pictures, progress, status]
  );

  /* Fills in settings; options: keep the seed, pictures to show, draw. */
  sana.fill = (settings, options = {}) => {
    const {lora, ...others} = settings;
    pending = {
      settings: {...others, ...sana.weightsOf(lora)},
      keep: 'seed' in settings,
      ...options,
    };
    document.getElementById('restore').click();
  };

  /* Weights of adapters by the keys of their sliders; without any, {}. */
  sana.weightsOf = (lora) => Object.fromEntries(
    Object.entries(lora ?? {}).map(([name, weight]) => [`lora.${name}`, weight]));

  /* Values of the widgets, with the pending ones. */
  sana.restored = (values) => {
    const {settings, keep, pictures} = pending;
    const count = config.keys.length;
    config.keys.forEach((key, i) => {
      if (key in settings) values[i] = settings[key];
    });
    if ('width' in settings && 'height' in settings) {
      const same = ([width, height]) =>
        width === settings.width && height === settings.height;
      values[count] = Object.keys(config.sizes)
        .find((label) => same(config.sizes[label])) ?? config.own;
    }
    if (keep) values[count + 1] = true;
    if (pictures !== undefined) {
      values.splice(count + 2, 3, pictures, '', '<p>Shown again.</p>');
    }
    return values;
  };

  /* Draws, if the pending settings are an example. */
  sana.afterwards = () => {
    const draw = pending?.draw;
    pending = null;
    if (draw) {
      requestAnimationFrame(() => document.getElementById('draw').click());
    }
  };

  /* Sets adapters of no weight in a PNG to 0; names of those not loaded. */
  function fitted(settings) {
    const given = settings.lora ?? {};
    const here = config.keys.filter((key) => key.startsWith('lora.'))
      .map((key) => key.slice('lora.'.length));
    settings.lora = Object.fromEntries(
      here.map((name) => [name, given[name] ?? 0]));
    return Object.keys(given).filter((name) => given[name] && !here.includes(name));
  }

  async function fromFile(file) {
    try {
      const {settings, model, unused} = await sana.settingsOf(file);
      if (settings.number > 0) settings.num_images = settings.number + 1;
      const absent = fitted(settings);
      sana.fill(settings);
      const hints = ['The settings of the PNG are filled in.'];
      if (settings.number > 0) {
        hints.push(`It is number ${settings.number} of its seed.`);
      }
      if (model && model !== config.model) {
        hints.push(`It was made by another model: ${model.slice(0, 200)}.`);
      }
      if (absent.length) {
        hints.push(`Not loaded here: ${absent.slice(0, 5).join(', ')}.`);
      }
      if (unused.length) {
        hints.push(`No field here has: ${unused.slice(0, 5).join(', ')}.`);
      }
      sana.show(hints.join(' '), 'hint');
    } catch (error) {
      sana.show(error.message);
    }
  }

  /* Moves errors and pictures of the server to where they belong. */
  function look() {
    const error = document.querySelector('#error [data-error]');
    if (error && error.dataset.error !== lastError) {
      lastError = error.dataset.error;
      sana.show(error.textContent);
    }
    for (const toast of document.querySelectorAll('[data-testid=toast-body]')) {
      const words = toast.querySelector('[data-testid=toast-text]');
      if (toast.dataset.seen || !words) continue;
      toast.dataset.seen = true;
      sana.show(words.textContent);
      toast.querySelector('[data-testid=toast-close]')?.click();
    }
    const pictures = document.querySelector('#pictures [data-made]');
    if (pictures && pictures.dataset.made !== lastPictures) {
      lastPictures = pictures.dataset.made;
      sana.remember(pictures);
    }
    document.querySelector('#status:not([aria-live])')
      ?.setAttribute('aria-live', 'polite');
    const list = document.querySelector('#history ul');
    if (list && !list.dataset.drawn) {
      list.dataset.drawn = true;
      sana.drawHistory();
    }
  }

  new MutationObserver(look).observe(
    document.documentElement, {
      attributeFilter: ['data-made', 'data-error'],
      childList: true,
      subtree: true,
    });

  document.addEventListener('click', (event) => {
    const example = event.target.closest?.('[data-example]');
    if (example) sana.fill({prompt: example.dataset.example}, {draw: true});
  });
  document.addEventListener('change', (event) => {
    if (event.target.matches?.('#drop input') && event.target.files.length) {
      fromFile(event.target.files[0]);
      event.target.value = '';
    }
  });

  const isFile = (event) => event.dataTransfer?.types.includes('Files');
  const mark = (on) => document.body.classList.toggle('sana-dropping', on);
  document.addEventListener('dragover', (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    mark(true);
  }, true);
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) mark(false);
  }, true);
  document.addEventListener('drop', (event) => {
    mark(false);
    if (!isFile(event) || !event.dataTransfer.files.length) return;
    event.preventDefault();
    event.stopPropagation();
    fromFile(event.dataTransfer.files[0]);
  }, true);
})();
