"""sana-jax zoo: the table, one entry, JSON, and unknown names."""

import json
import re
import shlex
import time

import pytest

from sana_jax.launch import cli as commands
from sana_jax.launch import zoo as command
from sana_jax.weights import zoo


def test_the_table_has_a_line_for_every_checkpoint(cli):
  code, out, _ = cli('zoo')
  assert code == 0
  head, *rows = out.split('\n\n')[0].splitlines()
  assert head.split() == [
    'name',
    'sample',
    'parameters',
    'px',
    'dtype',
    'note',
    'hub',
    'id',
  ]
  assert [row.split()[0] for row in rows] == [e.name for e in zoo.ENTRIES]
  line = next(row for row in rows if row.startswith('sana_1600m_4k_bf16'))
  assert re.search(
    r'1,604 M +4096 +bfloat16 +\[\d+\] +Efficient-Large-Model/'
    r'Sana_1600M_4Kpx_BF16_diffusers$',
    line,
  )


def test_every_note_stands_below_the_table_once(cli):
  _, out, _ = cli('zoo')
  table, notes = out.split('\n\n')
  used = {int(n) for n in re.findall(r' \[(\d+)\] ', table)}
  assert used == set(range(1, len(used) + 1))
  assert [int(n) for n in re.findall(r'(?m)^\[(\d+)\]', notes)] == sorted(used)
  assert max(map(len, notes.splitlines())) <= 80


@pytest.mark.parametrize(
  'name, expected',
  [
    (
      'sana_600m_1024',
      [
        'parameters   591,747,872 (transformer)',
        'size         1024 px',
        'flow shift 3.0',
        '4.0 in',
        'width 1152, depth 28, cross_heads 16',
        'NVIDIA License',
        'transformer float16',
        'sana-jax sample --model sana_600m_1024 --prompt',
      ],
    ),
    (
      'sana_1600m_1024_bf16_controlnet_hed',
      [
        'not published in the diffusers layout',
        'controlnet   width 2240, depth 7',
        'hf download '
        'Efficient-Large-Model/Sana_1600M_1024px_BF16_ControlNet_HED',
        '--like sana_1600m_1024_bf16_controlnet_hed',
      ],
    ),
    (
      'dc_ae_f64c128_mix_1.0',
      [
        'latent_channels 128',
        'scaling_factor',
        '0.4538',
        'sana-jax convert --from dc_ae_f64c128_mix_1.0',
      ],
    ),
  ],
)
def test_one_entry_is_printed_in_full(cli, name, expected):
  code, out, _ = cli('zoo', name)
  assert code == 0
  for words in expected:
    assert words in out


@pytest.mark.parametrize('entry', zoo.ENTRIES, ids=lambda e: e.name)
def test_the_commands_that_are_shown_are_understood(entry):
  shown = [shlex.split(line) for line in command.usage(entry)]
  ours = [argv[1:] for argv in shown if argv[0] == 'sana-jax']
  assert ours
  for argv in ours:
    parser, _ = commands.build_parsers(argv[0])
    parser.parse_args(argv)


def test_programs_get_everything(cli):
  _, out, _ = cli('zoo', '--json')
  records = json.loads(out)
  assert [r['name'] for r in records] == [e.name for e in zoo.ENTRIES]
  _, out, _ = cli('zoo', 'sana_sprint_600m_1024', '--json')
  record = json.loads(out)
  assert record == next(
    r for r in records if r['name'] == 'sana_sprint_600m_1024'
  )
  assert record['configs']['transformer']['guidance_embeds'] is True
  assert record['configs']['text_encoder']['hidden_size'] == 2304
  assert (record['sampler'], record['steps'], record['size_px']) == (
    'scm',
    2,
    1024,
  )


def test_an_unknown_name_is_a_one_line_error(refused):
  message = refused('zoo', 'sana_600m_1025')
  assert (message.key, message.error.value) == ('model', 'sana_600m_1025')
  near = message.partition('?')[0]
  for name in ('sana_600m_1024', 'sana_1600m_1024', 'sana15_1600m_1024'):
    assert name in near.split()


@pytest.mark.long
def test_it_answers_at_once(process):
  started = time.monotonic()
  code, out, err = process('zoo')
  assert (code, err) == (0, '')
  assert len(out.splitlines()) > len(zoo.ENTRIES)
  assert time.monotonic() - started < 10  # 0.8 s on an idle machine.
