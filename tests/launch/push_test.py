"""sana-jax push: the files of a model, and only those, on a local hub."""

import json
import os
import shutil

from huggingface_hub import constants
import pytest
from weights import hub_server
from weights.hub_server import TOKEN

from sana_jax.errors import TransientError, UserError
from sana_jax.weights import card, publishing

# The client's own uploads.
pytestmark = pytest.mark.filterwarnings(
  'ignore:Use .content=:DeprecationWarning'
)


@pytest.fixture
def hub(monkeypatch):
  with hub_server.served(monkeypatch) as server:
    yield server


@pytest.fixture
def model(tmp_path, tiny_sana):
  """A model with a card, and with other files that belong to it."""
  folder = tmp_path / 'model'
  ignored = shutil.ignore_patterns('golden.safetensors')
  shutil.copytree(tiny_sana, folder, ignore=ignored)
  facts = card.Card(title='cat', facts={'steps': '7'}, licence='mit')
  (folder / 'README.md').write_text(card.text(facts))
  (folder / 'samples.jpg').write_bytes(b'\xff\xd8')
  return folder


def contents(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.long
def test_a_model_is_uploaded_with_its_id_in_the_card(hub, model, cli):
  argv = 'push', '--model', model, '--to', 'me/cat', '--private'
  code, out, err = cli(*argv, '--revision', 'v1', '--message', 'Second try')
  assert code == 0, err
  expected = contents(model)
  assert b"from_pretrained('OWNER/NAME')" in expected['README.md']
  expected['README.md'] = expected['README.md'].replace(
    b'OWNER/NAME', b'me/cat'
  )
  assert hub.files == expected
  assert hub.private
  ((branch, header),) = hub.commits
  assert (branch, header['summary']) == ('v1', 'Second try')
  assert out.splitlines()[-1] == f'{hub.url}/me/cat/commit/1'
  assert all(name in out for name in expected)
  assert TOKEN not in out + err


@pytest.mark.long
def test_a_stopped_upload_is_continued(hub, model, cli):
  argv = 'push', '--model', model, '--to', 'me/cat'
  hub.status, hub.fail_on = 400, '/commit/'
  assert cli(*argv)[0] == 2
  sent = hub.puts
  assert sent == 3 and not hub.files
  hub.status = None
  assert cli(*argv)[0] == 0
  assert hub.puts == sent
  assert hub.files.keys() == contents(model).keys()


def test_a_dry_run_needs_no_hub_and_no_token(hub, model, cli, monkeypatch):
  monkeypatch.setattr('huggingface_hub.get_token', lambda: None)
  code, out, _ = cli('push', '--model', model, '--to', 'me/cat', '--dry-run')
  assert code == 0 and not hub.log
  listed = {line.split()[-1] for line in out.splitlines()[:-1]}
  assert listed == {*contents(model)}


def test_a_folder_without_a_card_is_noted(model, cli):
  (model / 'README.md').unlink()
  code, out, _ = cli('push', '--model', model, '--to', 'me/cat', '--dry-run')
  assert code == 0
  assert 'README.md' in out.splitlines()[-1]


@pytest.mark.parametrize(
  'name',
  [
    '.env',
    '.cache/huggingface/x.json',
    'optimizer.msgpack',
    'checkpoints/4/state',
    'transformer/pytorch_model.bin',
    'transformer/.hidden.json',
    'transformer/orbax/state.pkl',
    'pipeline.py',
    'tokenizer/evil.py',
    'metrics.jsonl',
    'run_id',
  ],
)
def test_files_that_belong_to_no_model_are_refused(name, hub, model, refused):
  path = model / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b'secret')
  if 'orbax' in name:
    with pytest.raises(UserError) as error:
      publishing.files_of(model)
    assert (error.value.key, error.value.value) == ('--model', name)
    return
  message = refused('push', '--model', model, '--to', 'me/cat')
  assert (message.key, message.error.value) == ('--model', name)
  assert not hub.log


@pytest.mark.long
def test_links_that_leave_the_folder_are_refused(hub, model, tmp_path, refused):
  (tmp_path / 'secret.json').write_text('{}')
  (model / 'vae' / 'more.json').symlink_to(tmp_path / 'secret.json')
  assert 'more.json' in refused('push', '--model', model, '--to', 'me/cat')
  (model / 'vae' / 'more.json').unlink()
  os.mkfifo(model / 'vae' / 'pipe.json')
  assert 'pipe.json' in refused('push', '--model', model, '--to', 'me/cat')
  assert not hub.log


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
  'damage, shown',
  [
    (lambda m: shutil.rmtree(m / 'vae'), 'vae/config.json'),
    (
      lambda m: edit(m / 'model_index.json', _class_name='FluxPipeline'),
      'FluxPipeline',
    ),
    (
      lambda m: os.truncate(
        m / 'transformer/diffusion_pytorch_model.safetensors', 5000
      ),
      'truncated',
    ),
    (lambda m: shutil.rmtree(m), 'no folder'),
    (lambda m: [shutil.rmtree(p) for p in m.glob('*/')], 'is missing'),
  ],
)
def test_a_model_that_cannot_be_loaded_is_refused(
  damage, shown, hub, model, refused
):
  damage(model)
  assert shown in refused('push', '--model', model, '--to', 'me/cat')
  assert not hub.log


def test_an_empty_folder_is_no_model(hub, tmp_path, refused):
  message = refused('push', '--model', tmp_path, '--to', 'me/cat')
  assert message.key == '--model'


@pytest.mark.parametrize(
  'value',
  [
    'cat',
    'me/cat/x',
    '../cat',
    'me/',
    '/cat',
    'me/c at',
    'me/cat.git',
    'me/a--b',
    'é/cat',
    'me/' + 'x' * 97,
  ],
)
def test_an_invalid_id_is_refused(value, tiny_sana, refused):
  message = refused('push', '--model', tiny_sana, '--to', value)
  assert (message.key, message.error.value) == ('--to', value)


@pytest.mark.parametrize('value', ['a b', '../x', '/main', '-x', 'a..b'])
def test_an_invalid_branch_is_refused(value, tiny_sana, refused):
  argv = 'push', '--model', tiny_sana, '--to', 'me/cat'
  message = refused(*argv, f'--revision={value}')
  assert message.key == '--revision'


def upload(model, **options):
  files = publishing.files_of(model)
  with pytest.raises(UserError) as error:
    publishing.upload(model, files, 'me/cat', **options)
  assert TOKEN not in str(error.value) and '\n' not in str(error.value)
  return error.value


@pytest.mark.parametrize(
  'status, kind, key',
  [
    (401, UserError, 'HF_TOKEN'),
    (403, UserError, 'HF_TOKEN'),
    (400, UserError, '--to'),
    (409, UserError, '--to'),
    (500, TransientError, '--to'),
    (429, TransientError, '--to'),
  ],
)
def test_an_error_of_the_hub_is_one_line_without_the_token(
  status, kind, key, hub, model
):
  hub.status, hub.fail_on = status, '/api/validate-yaml'
  error = upload(model)
  assert (type(error), error.key) == (kind, key)
  assert not hub.files


def test_a_refused_owner_is_reported(hub, model, cli):
  hub.status = 403
  code, _, err = cli('push', '--model', model, '--to', 'other/cat')
  assert code == 2 and 'other/cat' in err and 'HTTP' not in err


def test_without_network_the_exit_code_is_that_of_a_passing_failure(
  hub, model, cli, monkeypatch
):
  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
  code, _, err = cli('push', '--model', model, '--to', 'me/cat')
  assert code == 75
  assert err.count('\n') == 1 and TOKEN not in err


def test_without_a_token_nothing_is_sent(hub, model, monkeypatch):
  monkeypatch.setattr('huggingface_hub.get_token', lambda: None)
  assert upload(model).key == 'HF_TOKEN'
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  assert 'HF_HUB_OFFLINE' in str(upload(model))
  assert not hub.log


def test_a_private_upload_to_a_public_model_is_refused(hub, model, monkeypatch):
  monkeypatch.setattr(hub_server.Handler, 'do_GET', public)
  assert upload(model, private=True).key == '--private'
  assert not hub.files


def public(handler):
  handler._json({'id': 'me/cat', 'private': False, 'sha': 'f' * 40})
