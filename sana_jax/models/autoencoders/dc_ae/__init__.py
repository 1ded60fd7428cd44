"""DC-AE: the autoencoder between images and SANA's latents."""

from sana_jax.models.autoencoders.dc_ae.autoencoder import DCAE
from sana_jax.models.autoencoders.dc_ae.sizes import SIZES

__all__ = ['DCAE', 'SIZES']
