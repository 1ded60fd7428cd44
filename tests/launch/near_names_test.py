"""Names that are nearly right: answered with ours, or accepted."""

import sys

import pytest

from sana_jax.diffusion import samplers
from sana_jax.errors import UserError
from sana_jax.inference import arguments
from sana_jax.launch import cli as commands
from sana_jax.launch import config_files, pipelines
from sana_jax.launch.flags import Parser
from sana_jax.weights import hub, zoo

pytestmark = pytest.mark.fast

SAMPLE = ('sample', '--model', 'shapes', '--out', 'o', '--prompt', 'x')


@pytest.mark.parametrize(
  'argv, name',
  [
    (['smaple'], 'sample'),
    (['evalute', '--model', 'm'], 'evaluate'),
    ([*SAMPLE, '--num-image', '2'], '--num-images'),
    ([*SAMPLE, '--guidance', '2'], '--guidance-scale'),
    ([*SAMPLE, '--dtype', 'float23'], 'float32'),
    ([*SAMPLE, '--sampler', 'dpm+2m'], 'dpm++2m'),
    ([*SAMPLE, '--sampler', 'Eulr'], 'euler'),
    ([*SAMPLE, '--kernels', 'glumb=xla'], 'glumb_conv'),
    ([*SAMPLE, '--kernels', 'glumb_conv=xl'], 'xla'),
    (['evaluate', '--model', 'm', '--suite', 'shape'], 'shapes'),
    (['data', 'shape'], 'shapes'),
    (['zoo', 'sana_600_512'], 'sana_600m_512'),
    (['train', '--workdir', 'w', '--config', 'shape'], 'shapes'),
    (
      ['train', '--workdir', 'w', '--config', 'shapes', '--layout', 'fdsp'],
      'fsdp',
    ),
    (
      ['train', '--workdir', 'w', '--config', 'shapes', '--num_steps=5'],
      '--config.num_steps',
    ),
    (
      [
        'train',
        '--workdir',
        'w',
        '--config',
        'shapes',
        '--config.optimizer.learning=1',
      ],
      'learning_rate',
    ),
  ],
)
def test_a_wrong_name_is_answered_with_the_nearest(
  argv, name, refused, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert f'did you mean {name}' in refused(*argv).replace(
    'optimizer.learning_rate', 'learning_rate'
  )


@pytest.mark.parametrize(
  'name, near', [('shape', 'shapes'), ('Sana_600M_512', 'sana_600m_512')]
)
def test_a_wrong_model_is_answered_with_the_nearest(name, near):
  with pytest.raises(UserError, match=f'did you mean {near}') as refused:
    hub.find(name)
  assert refused.value.key == 'model'


def test_a_wrong_hub_id_is_answered_with_that_of_diffusers(monkeypatch):
  entry = zoo.get('sana_600m_512')
  with pytest.raises(UserError, match=f'did you mean {entry.hub_id}'):
    hub.find(entry.official_hub_id)


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_an_underscore_is_accepted_in_every_flag(name):
  parser = commands.build_parsers(name)[1]
  flags = [x for x in parser.flags() if '-' in x[2:]]
  known = parser._option_string_actions
  for flag in flags:
    other = '--' + flag[2:].replace('-', '_')
    assert parser._hyphened([other, f'{other}=a_b']) == [flag, f'{flag}=a_b']
    assert other not in known


def test_values_and_words_after_two_hyphens_keep_their_underscores():
  parser = Parser(prog='p')
  parser.add_argument('--num-images')
  parser.add_argument('words', nargs='*')
  found = parser.parse_args(['--num_images', 'a_b', '--', '--num_images'])
  assert (found.num_images, found.words) == ('a_b', ['--num_images'])


def test_an_underscore_works_in_a_command(cli, monkeypatch, tmp_path):
  got = {}
  monkeypatch.setattr(
    'sana_jax.launch.sample.run', lambda args: got.update(vars(args)) or 0
  )
  code, _, err = cli(*SAMPLE, '--num_images', '3', '--guidance_scale=2.5')
  assert code == 0, err
  assert (got['num_images'], got['guidance_scale']) == (3, 2.5)


def test_help_lists_every_sampler(capsys):
  assert list(pipelines.SAMPLERS) == list(samplers.NAMES)
  for name in ('sample', 'evaluate'):
    with pytest.raises(SystemExit):
      commands.main([name, '--help'])
    words = capsys.readouterr().out.replace(',', ' ').split()
    assert {'--sampler', *samplers.NAMES} <= set(words), name


def test_schedulers_of_diffusers_are_samplers():
  assert samplers.named('FlowMatchEulerDiscreteScheduler') == 'euler'
  assert samplers.named('DPMSolverMultistepScheduler') == 'dpm++2m'
  for name in samplers.NAMES:
    assert samplers.named(name) == name
  with pytest.raises(UserError) as refused:
    samplers.named('UniPCMultistepScheduler')
  assert refused.value.key == 'sampler'
  assert 'DPMSolverMultistepScheduler (dpm++2m)' in str(refused.value)


def test_a_call_in_python_takes_them_too():
  given = dict.fromkeys(arguments.Call._fields)
  own = dict(
    height=32,
    width=32,
    steps=2,
    guidance_scale=1.0,
    flow_shift=1.0,
    num_images=1,
    output_type='uint8',
    use_resolution_binning=True,
    sampler='dpm++2m',
    mask_blur=0,
  )
  given |= dict(prompts='x', guidance_scale=None)
  given['sampler'] = 'FlowMatchEulerDiscreteScheduler'
  assert arguments.call(given, own).sampler == 'euler'


@pytest.mark.parametrize(
  'text, key',
  [
    ("layout = {'mesh.fsdp': 2}", 'LAYOUT'),
    ('', 'LAYOUT'),
    ('import sys', 'LAYOUT'),
  ],
)
def test_a_layout_file_without_a_layout_is_named(tmp_path, text, key):
  path = tmp_path / 'mine.py'
  path.write_text(text)
  config = config_files.load_config('shapes')
  with pytest.raises(UserError) as refused:
    config_files.apply_layout(config, str(path))
  assert refused.value.key == key
  assert str(path) in str(refused.value) and '?' not in str(refused.value)


@pytest.mark.parametrize(
  'text, key',
  [
    ('', 'get_config'),
    ('def config(arg): pass', 'get_config'),
    ('def get_config(): pass', '--config'),
    ('def get_config(arg): return 1 / 0', '--config'),
  ],
)
def test_a_config_file_names_what_is_missing_and_no_line(tmp_path, text, key):
  path = tmp_path / 'mine.py'
  path.write_text(text)
  with pytest.raises(UserError) as refused:
    config_files.load_config(str(path))
  assert refused.value.key == key
  assert str(path) in str(refused.value) and 'line ?' not in str(refused.value)
  assert ('line 1' in str(refused.value)) == ('/' in text)


@pytest.mark.parametrize(
  'layout, key',
  [
    ("{'mesh.fdsp': 2}", 'mesh.fdsp'),
    ("{'mesh.fsdp': 'many'}", 'mesh.fsdp'),
    ("{'num_steps': 2}", '--layout'),
  ],
)
def test_a_wrong_key_of_a_layout_is_named_with_the_file(tmp_path, layout, key):
  path = tmp_path / 'mine.py'
  path.write_text(f'LAYOUT = {layout}')
  config = config_files.load_config('shapes')
  with pytest.raises(UserError) as refused:
    config_files.apply_layout(config, str(path))
  assert refused.value.key == key and str(path) in str(refused.value)


def test_a_missing_module_of_a_config_file_is_told_by_its_line(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('\nimport no_such_module_here')
  assert 'no_such_module_here' not in sys.modules
  with pytest.raises(UserError) as error:
    config_files.load_config(str(path))
  assert error.value.value == ('ModuleNotFoundError', 2)
