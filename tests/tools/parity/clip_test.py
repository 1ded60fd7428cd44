"""The ledger's quick cases of CLIP, its names, and whole folders."""

import clip_files
import numpy as np
from PIL import Image
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.clip.image_processing_pil_clip import (  # noqa: E402
  CLIPImageProcessorPil,
)

from sana_jax.evaluation import scorers  # noqa: E402
from sana_jax.tools.parity import clip, ledger, references  # noqa: E402
from sana_jax.weights import clip_rules, table  # noqa: E402


def fresh_seed():
  return int(np.random.SeedSequence().generate_state(1)[0])


@pytest.mark.parametrize(
  'case', [c for c in clip.cases() if c.quick], ids=lambda c: c.name
)
def test_parity(case):
  seed = fresh_seed()
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'


@pytest.mark.parametrize('act', ['quick_gelu', 'gelu'])
def test_the_scores_of_a_saved_folder_are_those_of_transformers(act, tmp_path):
  """From files, texts and pictures, with tokens and pixels of transformers."""
  clip_files.write_tokenizer(tmp_path)
  tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
  model = references.randomise(
    transformers.CLIPModel(
      transformers.CLIPConfig(
        projection_dim=24,
        **{
          name: clip_files.CONFIG[name] | {'hidden_act': act}
          for name in ('vision_config', 'text_config')
        },
      )
    )
  )
  processor = CLIPImageProcessorPil(
    size={'shortest_edge': 16}, crop_size={'height': 16, 'width': 16}
  )
  for part in model, tokenizer, processor:
    part.save_pretrained(tmp_path)
  prompts = ['a red cat', "the cat's ball " * 9, 'naïve 你好']
  images = np.random.default_rng().integers(0, 256, (3, 40, 61, 3), np.uint8)
  pixels = processor(
    images=[Image.fromarray(x) for x in images], return_tensors='pt'
  )
  ids = tokenizer(
    prompts, padding=True, truncation=True, max_length=20, return_tensors='pt'
  )
  with torch.no_grad():
    want = torch.diagonal(model(**ids, **pixels).logits_per_image)
  got = scorers.load(f'clip:{tmp_path}')(prompts, images)
  assert ledger.relative_error(got, want) <= 1e-5


def test_the_published_size_has_the_names_and_shapes_of_transformers():
  for vision, text, projection in (
    (dict(clip.FULL_VISION, num_hidden_layers=24), 768, 768),
    (
      dict(
        clip.FULL_VISION,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
      ),
      1024,
      1024,
    ),
  ):
    config = transformers.CLIPConfig(
      vision_config=vision,
      text_config=dict(hidden_size=text, intermediate_size=4 * text),
      projection_dim=projection,
    )
    with torch.device('meta'):
      theirs = transformers.CLIPModel(config)
    shapes = clip_files.shapes(config.to_dict())
    blank = clip_files.jax.tree.map(
      lambda s: np.broadcast_to(np.int8(0), s.shape), shapes
    )
    got = {k: v.shape for k, v in table.save(clip_rules.RULES, blank).items()}
    assert got == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
