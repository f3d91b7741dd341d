"""Decoding: the cache, the choice of tokens, the loop."""

from runtime.decode.cache import KVCache
from runtime.decode.loop import Decoder
from runtime.decode.sampling import Sampling, TokenChooser, filtered_chances

__all__ = ["Decoder", "KVCache", "Sampling", "TokenChooser", "filtered_chances"]
