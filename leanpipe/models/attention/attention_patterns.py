"""Which earlier tokens a token attends to: the settings of sparse attention, and how a model folder names them."""

from typing import Literal

from pydantic import Field

from leanpipe.core.config import StageConfig

KEY = "leanpipe_attention"
"""Where config.json of a model folder holds its pattern."""


class AttentionConfig(StageConfig):
    """Which earlier tokens a token attends to. All but `full` take time and memory that grow with length, not with its
    square. Documents that share a block never see each other."""

    pattern: Literal["full", "sliding_window", "longformer", "bigbird", "reformer"] = "full"
    """full: all of them. sliding_window: the last ones. longformer: those and the document's first ones. bigbird: those
    and blocks drawn at random. reformer: the last ones whose keys are hashed into the same bucket."""
    window: int = Field(128, ge=1, le=131_072)
    """How many tokens a token attends to of those nearest before it, itself among them; for reformer those of its
    bucket. Not used by full."""
    global_tokens: int = Field(4, ge=1, le=4_096)
    """So many tokens at each document's beginning are seen by all that follow; for longformer and bigbird."""
    random_blocks: int = Field(2, ge=1, le=64)
    """So many blocks before its window are seen by a token besides; for bigbird. All tokens of a block see the same."""
    block: int = Field(32, ge=1, le=4_096)
    """Tokens of such a block. For bigbird."""
    buckets: int = Field(16, ge=2, le=4_096, multiple_of=2)
    """Into how many buckets the keys of a head are hashed; for reformer."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Decides the blocks of bigbird and the hashes of reformer; it stays with the model."""
