'use strict';
/* Settings in the text chunks of a PNG. Nothing of a file is run or uploaded. */
window.sana = {};

(() => {
  const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
  const MOST_BYTES = 2 ** 28;
  const MOST_TEXT = 2 ** 17; // Bytes of a chunk; longer ones are skipped.
  const TEXTS = ['prompt', 'negative_prompt', 'sampler', 'control_annotator'];
  const NUMBERS = [
    'seed', 'steps', 'guidance_scale', 'width', 'height', 'number',
    'strength', 'mask_blur', 'control_scale', 'control_start', 'control_end',
  ];
  // What the page has no field for, and what needs none.
  const OTHER = ['version', 'parameters', 'model', 'number', 'lora'];

  /* Settings of a file, or an Error with one sentence. */
  sana.settingsOf = async (file) => {
    if (file.size > MOST_BYTES) throw new Error('This file is too large.');
    const texts = textsOf(new Uint8Array(await file.arrayBuffer()));
    if (!texts) throw new Error('This file is not a PNG.');
    const settings = {};
    for (const key of TEXTS) if (texts.has(key)) settings[key] = texts.get(key);
    for (const key of NUMBERS) {
      const number = Number.parseFloat(texts.get(key));
      if (Number.isFinite(number)) settings[key] = number;
    }
    settings.lora = weightsOf(texts.get('lora') ?? '');
    if (!('prompt' in settings) || !('seed' in settings)) {
      throw new Error('This PNG holds no settings of a picture made here.');
    }
    const known = [...TEXTS, ...NUMBERS, ...OTHER];
    return {
      settings,
      model: texts.get('model'),
      unused: [...texts.keys()].filter((key) => !known.includes(key)),
    };
  };

  /* Weights by name, of NAME:WEIGHT or a file's path with blanks between. */
  function weightsOf(text) {
    const found = text.matchAll(
      /(?:^|\s|\/)([^\s/:]+?)(?:\.[A-Za-z]+)?:(-?[\d.]+(?:e[+-]?\d+)?)(?=\s|$)/g);
    return Object.fromEntries(
      [...found].map(([, file, weight]) => [nameOf(file), Number(weight)])
        .filter(([, weight]) => Number.isFinite(weight)));
  }

  /* An adapter's name, as adapters.py makes it of a file's. */
  function nameOf(file) {
    return file.replace(/[^\p{L}\p{N}_]+/gu, '_');
  }

  /* Texts by key; null for a file that is no PNG. The first of a key counts. */
  function textsOf(bytes) {
    if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) return null;
    const view = new DataView(bytes.buffer);
    const texts = new Map();
    for (let at = 8; at + 12 <= bytes.length; ) {
      const size = view.getUint32(at);
      const data = bytes.subarray(at + 8, at + 8 + size);
      if (data.length < size) break;
      const kind = latin(bytes.subarray(at + 4, at + 8));
      const entry = size > MOST_TEXT ? null
        : kind === 'tEXt' ? plainText(data)
        : kind === 'iTXt' ? internationalText(data) : null;
      if (entry && !texts.has(entry[0])) texts.set(...entry);
      at += 12 + size;
    }
    return texts;
  }

  function plainText(data) {
    const end = data.indexOf(0);
    return end < 0 ? null
      : [latin(data.subarray(0, end)), latin(data.subarray(end + 1))];
  }

  /* KEY 0 COMPRESSED METHOD LANGUAGE 0 TRANSLATED 0 TEXT */
  function internationalText(data) {
    const end = data.indexOf(0);
    const language = data.indexOf(0, end + 3);
    const translated = data.indexOf(0, language + 1);
    if (end < 0 || language < 0 || translated < 0 || data[end + 1]) return null;
    return [
      latin(data.subarray(0, end)),
      new TextDecoder().decode(data.subarray(translated + 1)),
    ];
  }

  function latin(bytes) {
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  }
})();
