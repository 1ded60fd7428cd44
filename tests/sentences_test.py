"""The snapshot of messages is that of the source."""

import sentences


def test_the_snapshot_has_every_message_of_the_source():
  assert sentences.snapshot() == sentences.SNAPSHOT.read_text(), (
    'Messages changed: run python tests/sentences.py and review the difference.'
  )


def test_a_template_has_the_words_and_names_the_values():
  source = """
def size_problem(x):
  if x:
    return f'size {x} is odd'

raise UserError(f'steps={steps!r} must be ' 'in range', key='steps')
logging.warning('%d lines are skipped.', count)
raise UserError(str(e)) from ValueError('not a message')
raise errors.TransientError(f'{host} is {"down" if gone else "slow to answer"}')
"""
  assert list(sentences.templates(source)) == [
    ('problem', 'size {x} is odd'),
    ('UserError', 'steps={steps} must be in range'),
    ('log warning', '%d lines are skipped.'),
    ('TransientError', '{host} is [down|slow to answer]'),
  ]
