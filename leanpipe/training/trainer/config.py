"""The settings that every training stage shares, and what of them this device cannot do."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.keys import ByDevice, NotInKey

_SUMS = "the same sums, in parts: other last digits at the most"
_WATCHING = "how often the training is written down, not how it goes"


class TrainingConfig(StageConfig):
    """How a model is trained: how long, in what batches, by which optimiser, in which arithmetic."""

    tokens: int = Field(1_000_000, ge=1, le=10**12)
    """Length of the training in tokens. Text that is shorter is read again, in another order each time."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """The highest learning rate, reached after warming up."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Course of the learning rate after warming up. wsd stays constant and falls to 0 in the last fifth."""
    warmup: float = Field(0.1, ge=0, le=0.5)
    """Share of the steps in which the learning rate rises from 0."""
    batch: int = Field(4, ge=1, le=65_536)
    """Blocks per step of the optimiser."""
    micro_batch: Annotated[int, NotInKey(_SUMS)] = Field(0, ge=0, le=4_096)
    """Blocks that are in memory at once; a batch is made of several. 0 begins with what should fit, and halves it whenever memory runs out: that changes speed, not the result."""
    processes: int = Field(1, ge=1, le=64)
    """Processes that share every batch, one for each GPU; on a machine without a GPU they share its cores."""
    sharding: Literal["none", "full"] = "none"
    """none keeps a whole model in each process; full divides weights, gradients and the optimiser's state among them (FSDP), for a model that is too large for one GPU; with optimizer adamw."""
    optimizer: Literal["adamw", "adamw_8bit", "adamw_8bit_paged", "adafactor", "muon"] = "adamw"
    """adamw keeps 8 bytes of state per trained parameter, adamw_8bit (bitsandbytes) 2, paged on a GPU so that it may lie in main memory, adafactor next to none; muon keeps 4 for the weights of layers, and trains embeddings, norms and the output by adamw."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """How strongly weights are drawn to zero; norms and biases are left out."""
    max_grad_norm: float = Field(1.0, gt=0, le=1_000)
    """Gradients longer than this are shortened to it."""
    precision: Annotated[Literal["auto", "bf16", "fp16", "fp32"], ByDevice("arithmetic")] = "auto"
    """Arithmetic of the matrix products; weights are kept in fp32. auto is bf16 where the device has it, else fp32."""
    gradient_checkpointing: Annotated[bool, NotInKey("the same numbers, computed twice")] = False
    """Compute activations twice instead of keeping them: about a third slower, much less memory for long blocks."""
    compile: bool = False
    """Compile the layers with torch.compile: a minute before the first step, then faster steps on a GPU without Liger's kernels."""
    attention_kernel: Literal["auto", "sdpa", "flex_attention"] = "auto"
    """What computes full attention. auto is for each document by itself, without a mask: on a processor, and by FlashAttention
    on a GPU in bf16 or fp16; elsewhere it is PyTorch's sdpa."""
    fused_kernels: bool = True
    """Compute norms, activations and adapters in fewer passes: on a GPU also by Liger's kernels, if that package is there."""
    validations: int = Field(4, ge=2, le=1_000)
    """How many times the loss on held-out text is measured, the start and the end included."""
    validation_tokens: int = Field(16_384, ge=1, le=10**9)
    """How many tokens of held-out text it is measured on (fewer if there are no more)."""
    checkpoint_every_steps: Annotated[int, NotInKey(_WATCHING)] = Field(100, ge=1, le=10**9)
    """Steps between checkpoints, from which a run that was cut off goes on."""
    log_every_steps: Annotated[int, NotInKey(_WATCHING)] = Field(5, ge=1, le=10**6)
    """Steps between reports of loss, learning rate, gradient norm and speed."""
    on_divergence: Literal["stop", "rewind"] = "stop"
    """When the loss is no number or explodes: stop, or go back to the checkpoint before and leave out the batches that did it."""
    rewinds: int = Field(3, ge=1, le=1_000)
    """How many times a training may go back before it stops after all."""
    spike: float = Field(8.0, ge=0, le=1_000)
    """A loss explodes if it is so many standard deviations above the mean of the last 128 steps, three steps in a row; 0 looks only for what is no number."""
    patience: int = Field(0, ge=0, le=1_000)
    """Stop after so many validations without a better one, and keep the weights of the best; 0 trains to the end."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Decides the order of the text, dropout and new weights."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        self.check_batch()
        return self

    @model_validator(mode="after")
    def _can_be_sharded(self) -> Self:
        if self.sharding == "none":
            return self
        if self.processes == 1:
            raise ValueError("sharding=full divides a model among processes: set processes to 2 or more")
        if self.optimizer != "adamw":
            raise ValueError(
                f"sharding=full cannot divide the state of {self.optimizer}: set optimizer to adamw"
            )
        if self.precision == "fp16" or self.compile:
            raise ValueError("sharding=full works with precision bf16 or fp32, and with compile turned off")
        return self

    def check_batch(self) -> None:
        """Raise ValueError unless a batch can be shared evenly among processes and micro-batches."""
        if self.batch % self.processes:
            raise ValueError(f"batch ({self.batch}) must be a multiple of processes ({self.processes})")
        if self.micro_batch and self.share % min(self.micro_batch, self.share):
            whole = "batch" if self.processes == 1 else "batch / processes"
            raise ValueError(f"{whole} ({self.share}) must be a multiple of micro_batch ({self.micro_batch})")

    @property
    def share(self) -> int:
        """Blocks of each batch that one process trains on."""
        return self.batch // self.processes

    @property
    def shards(self) -> int:
        """How many parts each weight is in."""
        return self.processes if self.sharding == "full" else 1

    @property
    def in_memory(self) -> int:
        """Blocks in memory at once in each process; at most, if training finds the number by itself."""
        return min(self.micro_batch or self.share, self.share)

    @property
    def arithmetic(self) -> str:
        """Type of the matrix products, bf16, fp16 or fp32: `precision`, with "auto" decided for this device."""
        return device.arithmetic_of(self.precision)


def check_training(config: TrainingConfig) -> None:
    """Raise UserError for settings that this device cannot run. Costs nothing, so call it before any long work."""
    from leanpipe.training.trainer.kernels import check_kernels

    if config.precision == "fp16" and device.name() == "cpu":
        raise UserError("precision fp16 needs a GPU: use auto, bf16 or fp32 on this machine")
    if config.optimizer == "adamw_8bit_paged" and device.name() == "cpu":
        raise UserError("optimizer adamw_8bit_paged needs a GPU: use adamw_8bit on this machine")
    check_kernels(config.attention_kernel, config.compile)
    if device.name() == "cuda" and config.processes > device.count():
        raise UserError(
            f"processes is {config.processes}, but there are {device.count()} GPUs here: set it to that or less"
        )
