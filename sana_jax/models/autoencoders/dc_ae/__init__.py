"""DC-AE, SANA's image autoencoder."""

from sana_jax.models.autoencoders.dc_ae.autoencoder import DCAE
from sana_jax.models.autoencoders.dc_ae.sizes import SIZES

__all__ = ['DCAE', 'SIZES']
