"""The settings of the flows, put together from those of their stages."""

from pydantic import Field, model_validator

from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.core.config import StageConfig
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.dry_run import SampleConfig
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.parity.parity import ParityConfig
from leanpipe.models.describe_model import DescribeModelConfig
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.distill.teacher_cache import CacheSettings
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.on_policy.on_policy import OnPolicyConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig
from leanpipe.training.quantization_aware.quantization_aware import QuantizationAwareSettings
from leanpipe.training.vocabulary.cut_vocabulary import CutVocabularyConfig


class CorpusInput(StageConfig):
    """The text that goes in."""

    corpus: tuple[str, ...] = Field(("sample",), min_length=1)
    """Folders and files of text, or `sample` (web pages and Wikipedia) or `python-topics`, which need no files."""


class InstructionsInput(StageConfig):
    """The instructions that go in."""

    instructions: str = Field("alpaca-sample", min_length=1)
    """Instructions to finetune on: a .json or .jsonl file or folder, or `alpaca-sample` or `python-docstrings`."""


class TeacherInput(StageConfig):
    """The teacher that goes in."""

    teacher: str = Field("smollm2-135m-instruct", min_length=1)
    """The model to learn from: a folder, a .gguf file, a hub id, or `smollm2-135m-instruct` or `tiny`."""


# pydantic lists the fields of the last base first: what goes in stands above the stages.
class CorpusSettings(CorpusInput):
    """The text, and what is kept of it."""

    evaluation_sets: tuple[str, ...] = Field((), max_length=100)
    """Files of evaluation sets, of which no document may hold a passage: .jsonl, .json, .csv, .txt or .parquet."""
    clean: CleanConfig = CleanConfig()
    """What is kept of the corpus."""


class InspectSettings(CorpusSettings):
    """The text, and how much of it is looked at."""

    inspect: SampleConfig = SampleConfig()
    """The sample, and how many of its documents are shown."""


class TokenSettings(CorpusSettings, TeacherInput, CorpusInput):
    """The text, and how it becomes tokens."""

    tokenize: TokenizeConfig = TokenizeConfig()
    """How text becomes blocks of tokens."""


class DistillSettings(TokenSettings):
    """The text, the tokens, and how the student learns."""

    cut_vocabulary: CutVocabularyConfig = CutVocabularyConfig()
    """Which of the teacher's tokens stay, if its own tokenizer is used."""
    cache: CacheSettings = CacheSettings()
    """How much of the teacher's predictions is kept on disk, if distill.teacher_logprobs is cached."""
    distill: DistillConfig = DistillConfig()
    """How the student learns from the teacher."""

    @model_validator(mode="after")
    def _teacher_must_understand_the_student(self) -> "DistillSettings":
        if self.tokenize.tokenizer != "teacher" and self.distill.kl_weight > 0:
            raise ValueError(
                f"tokenize.tokenizer={self.tokenize.tokenizer} gives the student another vocabulary than the teacher's, "
                "so there is nothing to distill: set distill.kl_weight=0, or tokenize.tokenizer=teacher"
            )
        return self


class OnPolicySettings(StageConfig):
    """How the student learns from its own answers."""

    on_policy: OnPolicyConfig = OnPolicyConfig()
    """How the student goes on learning from its own answers to the instructions; left out unless on_policy.steps is set."""


class PretrainSettings(TokenSettings):
    """The text, the tokens, and how a model learns from nothing."""

    teacher: str = Field("tiny", min_length=1)
    """A model whose tokenizer is used where `tokenize.tokenizer` is teacher, and compared with the new one where not."""
    tokenize: TokenizeConfig = TokenizeConfig(tokenizer="bpe", vocabulary=4_096)
    """How text becomes blocks of tokens: by default with a tokenizer of its own."""
    pretrain: PretrainConfig = PretrainConfig()
    """How deep the model is, and how it learns."""


class InstructionSettings(InstructionsInput):
    """The instructions, and how a model learns to follow them."""

    finetune: FinetuneConfig = FinetuneConfig()
    """How the model learns to follow instructions."""


class RoundingSettings(StageConfig):
    """How a model learns on the grid that it will be stored on."""

    quantization_aware: QuantizationAwareSettings = QuantizationAwareSettings()
    """How the finetuned model goes on learning by weights of 4 bits, before q4_0 is made of it."""


class QuantizeSettings(StageConfig):
    """How a model is made smaller."""

    quantize: QuantizeConfig = QuantizeConfig()
    """How the model is made smaller."""


class ParitySettings(StageConfig):
    """How what is served is compared with what was trained."""

    parity: ParityConfig = ParityConfig()
    """How the served forms of the model are compared with the trained one, before one of them is registered."""


class EvaluateSettings(StageConfig):
    """How models are measured."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """How every model is measured, all on the same held-out text."""


class RegisterSettings(StageConfig):
    """What is registered."""

    registration: RegisterConfig = RegisterConfig()
    """Which model is registered, and when it replaces the champion."""


class ModelSetting(StageConfig):
    """A model that is there already."""

    model: str = Field("smollm2-135m-instruct", min_length=1)
    """The model to work on: a folder, a .gguf file, a hub id, or `smollm2-135m-instruct` or `tiny`."""


class FinetuneSettings(InstructionSettings, ModelSetting):
    """A model, and instructions to finetune it on."""


class CompressSettings(QuantizeSettings, ModelSetting):
    """A model, and how it is made smaller."""

    describe_model: DescribeModelConfig = DescribeModelConfig()
    """How the model's parameters are counted before."""


class ModelsInput(StageConfig):
    """The models that go in."""

    models: tuple[str, ...] = Field(("smollm2-135m-instruct",), min_length=1)
    """The models to compare: folders, .gguf files, hub ids, or `smollm2-135m-instruct` or `tiny`."""


class CompareSettings(EvaluateSettings, CorpusSettings, ModelsInput):
    """Models, and the text they are measured on."""


class PipelineConfig(
    RegisterSettings,
    EvaluateSettings,
    ParitySettings,
    QuantizeSettings,
    RoundingSettings,
    InstructionSettings,
    OnPolicySettings,
    DistillSettings,
    TeacherInput,
    InstructionsInput,
    CorpusInput,
):
    """Every setting of the pipeline: what goes in, and one section for each stage."""

    @model_validator(mode="after")
    def _teacher_must_understand_the_answers(self) -> "PipelineConfig":
        if self.tokenize.tokenizer != "teacher" and self.on_policy.steps:
            raise ValueError(
                f"tokenize.tokenizer={self.tokenize.tokenizer} gives the student another vocabulary than the teacher's, "
                "which cannot say what it thinks of its answers: set on_policy.steps=0, or tokenize.tokenizer=teacher"
            )
        return self


SETTINGS: dict[str, type[StageConfig]] = {
    "data-to-deployment": PipelineConfig,
    "inspect-corpus": InspectSettings,
    "prepare-corpus": TokenSettings,
    "distill": DistillSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "compress": CompressSettings,
    "evaluate": CompareSettings,
}
"""What each flow is told, by its name: known without loading a flow, so that a misspelt setting is refused at once."""
CORPUS_FLOWS = ("inspect-corpus", "prepare-corpus")
"""Those that only read text: there is no model to plan for."""
