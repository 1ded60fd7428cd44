"""Names and shapes of efficientvit's autoencoders, published and tiny."""

WIDTHS = (128, 256, 512, 512, 1024, 1024)
RRRVVV = 'rrrvvv'


def conv(name, n_out, n_in, kernel=3, bias=True):
  return {f'{name}.weight': (n_out, n_in, kernel, kernel)} | (
    {f'{name}.bias': (n_out,)} if bias else {}
  )


def norm(name, width, batch=False):
  out = {f'{name}.weight': (width,), f'{name}.bias': (width,)}
  return out | (
    {
      f'{name}.running_mean': (width,),
      f'{name}.running_var': (width,),
      f'{name}.num_batches_tracked': (),
    }
    if batch
    else {}
  )


def block(kind, c, scales, batch, dim=32):
  if kind == 'r':
    return {
      **conv('main.conv1.conv', c, c),
      **conv('main.conv2.conv', c, c, bias=False),
      **norm('main.conv2.norm', c, batch),
    }
  a, f = 'context_module.main', 'local_module.main'
  out = {
    **conv(f'{a}.qkv.conv', 3 * c, c, 1, bias=False),
    **conv(f'{a}.proj.conv', c, c * (1 + len(scales)), 1, bias=False),
    **norm(f'{a}.proj.norm', c, batch),
  }
  for i, size in enumerate(scales):
    out |= conv(f'{a}.aggreg.{i}.0', 3 * c, 1, size, bias=False)
    out |= conv(f'{a}.aggreg.{i}.1', 3 * c, dim, 1, bias=False)
  return {
    **out,
    **conv(f'{f}.inverted_conv.conv', 8 * c, c, 1),
    **conv(f'{f}.depth_conv.conv', 8 * c, 1),
    **conv(f'{f}.point_conv.conv', c, 4 * c, 1, bias=False),
    **norm(f'{f}.point_conv.norm', c),
  }


def stages(side, kinds, widths, depths, scales, batch, plain):
  out, down = {}, side == 'encoder'
  for s, (kind, c, depth) in enumerate(zip(kinds, widths, depths, strict=True)):
    layers = [
      block(kind, c, scales if kind == 'v' else (), batch[s])
      for _ in range(depth)
    ]
    if depth and s + 1 < len(widths):
      wide = widths[s + 1]
      if down:
        layers.append(
          conv('main.conv', wide, c)
          if plain
          else conv('main.conv.conv', wide // 4, c)
        )
      else:
        layers.insert(0, conv('main.conv.conv', c if plain else 4 * c, wide))
    for b, layer in enumerate(layers):
      out |= {f'{side}.stages.{s}.op_list.{b}.{k}': v for k, v in layer.items()}
  return out


def shapes(
  latent,
  widths,
  encoder,
  decoder,
  *,
  kinds=RRRVVV,
  scales=(),
  decoder_kinds=None,
  batch=None,
  strided=False,
  interpolated=False,
):
  batch = batch or [False] * len(widths)
  first = widths[0] if encoder[0] else widths[1]
  last = widths[0] if decoder[0] else widths[1]
  stride = not encoder[0] and not strided
  return {
    **conv(
      'encoder.project_in.conv' + '.conv' * stride,
      first // 4 if stride else first,
      3,
    ),
    **stages('encoder', kinds, widths, encoder, scales, [False] * 9, strided),
    **conv('encoder.project_out.main.op_list.0.conv', latent, widths[-1]),
    **conv('decoder.project_in.main.conv', widths[-1], latent),
    **stages(
      'decoder',
      decoder_kinds or kinds,
      widths,
      decoder,
      scales,
      batch,
      interpolated,
    ),
    **norm('decoder.project_out.op_list.0', last),
    **conv(
      'decoder.project_out.op_list.2.conv' + '.conv' * (not decoder[0]),
      3 if decoder[0] or interpolated else 12,
      last,
    ),
  }


SANA = shapes(
  32,
  WIDTHS,
  (2, 2, 2, 3, 3, 3),
  (3,) * 6,
  scales=(5,),
  strided=True,
  interpolated=True,
)
LITE = shapes(
  32,
  WIDTHS,
  (2, 2, 2, 3, 3, 3),
  (0, 3, 5, 4, 4, 4),
  scales=(5,),
  decoder_kinds='rrrrrr',
  strided=True,
)
BATCH = [True] * 3 + [False] * 5
F32 = shapes(32, WIDTHS, (0, 4, 8, 2, 2, 2), (0, 5, 10, 2, 2, 2), batch=BATCH)
F64 = shapes(
  128,
  (*WIDTHS, 2048),
  (0, 4, 8, 2, 2, 2, 2),
  (0, 5, 10, 2, 2, 2, 2),
  kinds='rrrvvvv',
  batch=BATCH,
)
F128 = shapes(
  512,
  (*WIDTHS, 2048, 2048),
  (0, 4, 8, 2, 2, 2, 2, 2),
  (0, 5, 10, 2, 2, 2, 2, 2),
  kinds='rrrvvvvv',
  batch=BATCH,
)
PUBLISHED = {
  'sana': SANA,
  'lite': LITE,
  'f32c32': F32,
  'f64c128': F64,
  'f128c512': F128,
}
TINY = {
  'sana': shapes(
    4,
    (8, 16, 32),
    (1, 2, 1),
    (2, 1, 1),
    kinds='rrv',
    scales=(5,),
    strided=True,
    interpolated=True,
  ),
  'lite': shapes(
    4,
    (8, 16, 32),
    (1, 2, 1),
    (0, 2, 1),
    kinds='rrv',
    scales=(5,),
    decoder_kinds='rrr',
    strided=True,
  ),
  'in': shapes(
    4, (8, 16, 32), (0, 2, 1), (0, 1, 1), kinds='rrv', batch=[True, True, False]
  ),
  'strided, no first stage': shapes(
    4,
    (8, 16, 32),
    (0, 2, 1),
    (0, 1, 1),
    kinds='rrv',
    scales=(3, 5),
    batch=[False, False, True],
    strided=True,
    interpolated=True,
  ),
}
