"""What transformers calls the cache of keys and values: `past_key_values` up to 5.23, `cache` from 5.24 on."""

from __future__ import annotations

import inspect

from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

CACHE = "cache" if "cache" in inspect.signature(Qwen2Attention.forward).parameters else "past_key_values"
