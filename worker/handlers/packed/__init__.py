"""Text encoders without padding: the tokens of a batch lie one after another, [T, H], in every layer.

Only attention looks at texts as such; all else is per token, so short texts pay nothing for long ones. A file for each
kind of family reads the weights out of transformers' model; `agrees` holds every use to the model's own padded forward.
"""

from worker.handlers.packed.attention import attentions
from worker.handlers.packed.encoder import PackedEncoder
from worker.handlers.packed.padded import PaddedEncoder, agrees
from worker.handlers.packed.reordered import faster

__all__ = ["PackedEncoder", "PaddedEncoder", "agrees", "attentions", "faster"]
