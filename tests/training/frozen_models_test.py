"""A run that is resumed must have the teacher that it began with."""

from etils import epath
import jax.numpy as jnp
import pytest

from sana_jax.errors import UserError
from sana_jax.training import frozen_models

pytestmark = pytest.mark.fast


def models(name='a', weight=1.0, bias=0.0):
  teacher = {'kernel': jnp.full((2, 3), weight), 'bias': jnp.full(3, bias)}
  return (
    {'teacher': ('sprint.teacher', name)},
    {'teacher': teacher, 'null_text': jnp.zeros(2)},
  )


@pytest.fixture
def workdir(tmp_path):
  return epath.Path(tmp_path)


def test_the_same_weights_are_accepted_under_any_name(workdir):
  frozen_models.check(workdir, *models('a'))
  frozen_models.check(workdir, *models('copy/of/a'))
  with pytest.raises(UserError) as e:
    frozen_models.check(workdir, *models('b', weight=2.0))
  assert e.value.key == 'sprint.teacher' and e.value.value == 'b'
  assert e.value.allowed == ('a',)  # As it began.


@pytest.mark.parametrize('change', [dict(weight=1.5), dict(bias=1.0)])
def test_other_weights_are_refused_under_the_same_name(workdir, change):
  frozen_models.check(workdir, *models())
  with pytest.raises(UserError):
    frozen_models.check(workdir, *models(**change))
  frozen_models.check(workdir, *models())  # The record is as before.


def test_swapped_weights_of_two_names_are_other_weights():
  one = frozen_models.checksum({'a': jnp.ones(2), 'b': jnp.zeros(2)})
  assert one != frozen_models.checksum({'a': jnp.zeros(2), 'b': jnp.ones(2)})


@pytest.mark.parametrize('content', [b'', b'[]', b'{"sprint.teacher": 1}'])
def test_a_damaged_record_is_written_again_with_a_warning(
  workdir, content, caplog
):
  (workdir / frozen_models.FILE).write_bytes(content)
  frozen_models.check(workdir, *models())
  assert any(frozen_models.FILE in r.getMessage() for r in caplog.records)
  with pytest.raises(UserError):
    frozen_models.check(workdir, *models(weight=3.0))


def test_a_task_without_frozen_models_writes_nothing(workdir):
  frozen_models.check(workdir, {}, {})
  assert not list(workdir.iterdir())
