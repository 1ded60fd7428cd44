"""Captions of `shapes`, their meanings, and the held-out ones.

The six kinds are those of GenEval (Ghosh et al. 2023, section 3), over four
shapes and six colours. A `Requirement` is the meaning of a caption; several
captions express the same one ('a red circle left of a blue square' and 'a blue
square is right of a red circle').

The held-out split consists of *requirements*, in any phrasing: the first eighth
of each kind in the order of a hash, and at least two. `single` has only four
requirements, one per shape, all needed in training; there one *string* of each
shape is held out. So no held-out string occurs in the train split; its objects
do, in other combinations.
"""

import dataclasses
import functools
import hashlib
import itertools

SHAPES = ('circle', 'square', 'triangle', 'star')
NEW_SHAPES = ('diamond', 'hexagon')  # In no data; see evaluation/new_shape.py.
COLORS = ('red', 'green', 'blue', 'yellow', 'purple', 'orange')
KINDS = ('single', 'two', 'counting', 'colors', 'position', 'attribution')
SPLITS = ('train', 'heldout')
NUMBERS = {1: 'one', 2: 'two', 3: 'three', 4: 'four'}
# One caption of each kind, for people who try a model.
EXAMPLES = (
  'a photo of a star',
  'a purple triangle',
  'three green stars',
  'a circle and a square',
  'a red circle above a blue square',
  'a yellow star and a purple circle',
)
OPPOSITE = {'left of': 'right of', 'above': 'below'}


@dataclasses.dataclass(frozen=True)
class Want:
  """Requested objects of a shape, and of a colour if one is given."""

  shape: str
  color: str | None = None
  count: int = 1


@dataclasses.dataclass(frozen=True)
class Requirement:
  """The meaning of a caption; in `position`, wants[0] is `relation` wants[1].

  Canonical: the relation is 'left of' or 'above', and the two objects of the
  other kinds are in the order of SHAPES.
  """

  kind: str
  wants: tuple[Want, ...]
  relation: str | None = None


def requirements(kind: str) -> list[Requirement]:
  """All distinct requirements of a kind."""
  pairs = list(itertools.combinations(SHAPES, 2))
  colors = list(itertools.product(COLORS, repeat=2))
  match kind:
    case 'single':
      wants = [(Want(s),) for s in SHAPES]
    case 'two':
      wants = [(Want(s), Want(t)) for s, t in pairs]
    case 'counting':
      wants = [
        (Want(s, c, n),)
        for s in SHAPES
        for c in (None, *COLORS)
        for n in (2, 3, 4)
      ]
    case 'colors':
      wants = [(Want(s, c),) for s in SHAPES for c in COLORS]
    case 'position':
      return [
        Requirement(kind, (Want(s, c), Want(t, d)), relation)
        for s, t in itertools.permutations(SHAPES, 2)
        for c, d in colors
        for relation in OPPOSITE
      ]
    case 'attribution':
      wants = [
        (Want(s, c), Want(t, d)) for s, t in pairs for c, d in colors if c != d
      ]
    case _:
      raise ValueError(f'{kind=} is not one of {KINDS}.')
  return [Requirement(kind, w) for w in wants]


def phrasings(requirement: Requirement) -> list[str]:
  """All captions with this meaning, of at most nine words."""
  a, *rest = requirement.wants
  match requirement.kind:
    case 'single':
      return [
        f'{_a(a)}',
        f'one {_name(a)}',
        f'a photo of {_a(a)}',
        f'a picture of {_a(a)}',
      ]
    case 'colors':
      return [f'{_a(a)}', f'one {_name(a)}', f'a photo of {_a(a)}']
    case 'counting':
      many = f'{NUMBERS[a.count]} {_name(a)}s'
      return [many, f'exactly {many}', f'a photo of {many}']
    case 'position':
      (b,) = rest
      sides = (
        (a, requirement.relation, b),
        (b, OPPOSITE[requirement.relation], a),
      )
      return [
        f'{_a(x)} {verb}{relation} {_a(y)}'
        for x, relation, y in sides
        for verb in ('', 'is ')
      ]
    case _:
      (b,) = rest
      return [
        text
        for x, y in ((a, b), (b, a))
        for text in (
          f'{_a(x)} and {_a(y)}',
          f'{_a(x)} with {_a(y)}',
          f'one {_name(x)} and one {_name(y)}',
        )
      ]


def meaning(caption: str) -> Requirement | None:
  """Requirement of a caption, ignoring case, spaces and a final full stop.

  None if it is not a caption of `shapes`.
  """
  return _meanings().get(' '.join(caption.lower().split()).removesuffix('.'))


@functools.cache
def _meanings():
  return {
    text: requirement
    for kind in KINDS
    for requirement in requirements(kind)
    for text in phrasings(requirement)
  }


@functools.cache
def captions(
  kind: str, split: str
) -> tuple[tuple[Requirement, tuple[str, ...]], ...]:
  """Requirements of a kind in a split, each with its captions."""
  held = split == 'heldout'
  if kind == 'single':
    chosen = []
    for requirement in requirements(kind):
      first, *others = sorted(phrasings(requirement), key=_digest)
      chosen.append((requirement, (first,) if held else tuple(others)))
    return tuple(chosen)
  ranked = sorted(requirements(kind), key=lambda r: _digest(phrasings(r)[0]))
  count = max(2, -(-len(ranked) // 8))
  chosen = ranked[:count] if held else ranked[count:]
  return tuple((r, tuple(phrasings(r))) for r in chosen)


def words() -> list[str]:
  """Sorted vocabulary of all captions."""
  return sorted(
    {
      word
      for kind in KINDS
      for r in requirements(kind)
      for text in phrasings(r)
      for word in text.split()
    }
  )


def _name(want):
  return f'{want.color} {want.shape}' if want.color else want.shape


def _a(want):
  name = _name(want)
  return f'an {name}' if name.startswith('o') else f'a {name}'


def _digest(text):
  # Python's own hash differs between processes.
  return hashlib.sha256(text.encode()).hexdigest()
