"""The part of ComfyUI that loads a folder of nodes, checks inputs, runs nodes.

It follows ComfyUI's documentation of custom nodes: a module is loaded from the
path of its folder, widgets are converted and checked against their types, and
values of links are not checked, nor passed to VALIDATE_INPUTS and IS_CHANGED.
"""

import importlib.util
import inspect
import sys

_CONVERTED = {'INT': int, 'FLOAT': float, 'STRING': str}


class Invalid(Exception):
  """Inputs that ComfyUI refuses before it runs a node."""


def load(folder):
  """The module of a folder in custom_nodes, under ComfyUI's name for it."""
  name = str(folder).replace('.', '_x_')
  spec = importlib.util.spec_from_file_location(name, folder / '__init__.py')
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def check_class(cls) -> None:
  """Fails unless a class has the attributes of a node."""
  types = cls.INPUT_TYPES()
  assert {'required'} <= set(types) <= {'required', 'optional', 'hidden'}
  for name, (kind, options) in inputs_of(cls).items():
    assert name.isidentifier() and isinstance(options, dict)
    assert isinstance(kind, str | list) and kind
    if isinstance(kind, list):
      assert options.get('default', kind[0]) in kind
    elif 'min' in options:
      assert options['min'] <= options['default'] <= options['max']
  assert isinstance(cls.RETURN_TYPES, tuple)
  assert all(isinstance(kind, str) for kind in cls.RETURN_TYPES)
  if hasattr(cls, 'RETURN_NAMES'):
    assert len(cls.RETURN_NAMES) == len(cls.RETURN_TYPES)
  assert isinstance(cls.CATEGORY, str) and cls.CATEGORY
  function = inspect.signature(getattr(cls, cls.FUNCTION))
  assert [*function.parameters][1:] == [*inputs_of(cls)]
  for hook in ('VALIDATE_INPUTS', 'IS_CHANGED'):
    if found := getattr(cls, hook, None):
      assert inspect.ismethod(found), f'{hook} is no class method'
      parameters = inspect.signature(found).parameters.values()
      named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
      assert {p.name for p in named} <= {*inputs_of(cls)}
      assert all(p.default is not p.empty for p in named)
      assert hook != 'IS_CHANGED' or len(named) < len(parameters)


def inputs_of(cls):
  types = cls.INPUT_TYPES()
  return types['required'] | types.get('optional', {})


def run(cls, linked=(), **values):
  """Outputs of a node; omitted widgets have their defaults.

  Args:
    linked: names of inputs whose values come from other nodes.
  """
  given = {}
  for name, (kind, options) in inputs_of(cls).items():
    value = values.pop(name, options.get('default'))
    if name in linked:
      pass
    elif isinstance(kind, list):
      if value not in kind:
        raise Invalid(f'{name}: {value!r} not in list')
    elif kind in _CONVERTED:
      value = _CONVERTED[kind](value)
      if not options.get('min', value) <= value <= options.get('max', value):
        raise Invalid(f'{name}: {value!r} is out of range')
    given[name] = value
  assert not values, f'there are no inputs {[*values]}'
  if hasattr(cls, 'VALIDATE_INPUTS'):
    names = {*inspect.signature(cls.VALIDATE_INPUTS).parameters} - {*linked}
    answer = cls.VALIDATE_INPUTS(**{name: given[name] for name in names})
    if answer is not True:
      raise Invalid(str(answer))
  found = getattr(cls(), cls.FUNCTION)(**given)
  assert isinstance(found, tuple) and len(found) == len(cls.RETURN_TYPES)
  return found
