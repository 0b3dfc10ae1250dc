"""The settings of the flows, put together from those of their stages."""

from pydantic import Field, model_validator

from leanpipe.compression.gguf_types import GgufType
from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.core.config import StageConfig
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.dry_run import SampleConfig
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.human.answer_prompts import AnswerPromptsConfig
from leanpipe.evaluation.human.blind_sheets import BlindSheetsConfig
from leanpipe.evaluation.parity.parity import ParityConfig
from leanpipe.evaluation.task_scores.score_tasks import ScoreTasksConfig
from leanpipe.models.describe_model import DescribeModelConfig
from leanpipe.quantization_aware.quantization_aware import QuantizationAwareSettings
from leanpipe.shrink.low_rank import LowRankConfig
from leanpipe.shrink.prune import PruneConfig
from leanpipe.shrink.search.search_shapes import SearchConfig
from leanpipe.shrink.shrink import ShrinkConfig
from leanpipe.teacher_text.write import WriteSettings
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.distill.teacher_cache import CacheSettings
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.on_policy.on_policy import OnPolicyConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig
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
class TasksInput(StageConfig):
    """Tasks with known answers."""

    tasks: tuple[str, ...] = Field((), max_length=100)
    """Tasks with known answers that every model is asked: YAML files, as docs/evaluation.md shows, or `python-docstrings` or
    `mmlu-sample`, which need no files; empty for none."""


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


class VocabularySettings(TokenSettings):
    """The text, and how it becomes tokens of a vocabulary that it needs."""

    cut_vocabulary: CutVocabularyConfig = CutVocabularyConfig()
    """Which of the teacher's tokens stay, if its own tokenizer is used."""


class ShrinkSettings(VocabularySettings):
    """The text, the tokens, and what of the teacher the student has."""

    shrink: ShrinkConfig = ShrinkConfig()
    """How large the student is, and which layers and widths of its teacher it has."""
    prune: PruneConfig = PruneConfig()
    """Which connections of the student are set to zero; left out unless prune.sparsity is set."""
    low_rank: LowRankConfig = LowRankConfig()
    """How large the student is whose matrices become factors of low rank; left out unless low_rank has a budget."""

    @model_validator(mode="after")
    def _factors_have_no_zeros(self) -> "ShrinkSettings":
        if self.prune.sparsity and not self.low_rank.is_whole:
            raise ValueError(
                f"prune.sparsity={self.prune.sparsity:g} and a budget of low_rank are both set, but factors of a matrix have none "
                "of its zeros: set prune.sparsity=0, or low_rank.size=1"
            )
        return self


class DistillSettings(ShrinkSettings):
    """The text, the tokens, and how the student learns."""

    cache: CacheSettings = CacheSettings()
    """How much of the teacher's predictions is kept on disk, if distill.teacher_logprobs is cached."""
    write: WriteSettings = WriteSettings()
    """How the teacher writes, if distill.written_share or finetune.written_share is above 0."""
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


class SearchSettings(VocabularySettings):
    """The text, the tokens, and which shapes of a student are tried."""

    cache: CacheSettings = CacheSettings()
    """How much of the teacher's predictions is kept on disk."""
    search_shapes: SearchConfig = SearchConfig()
    """Which shapes are tried, and how long the best of them learn."""

    @model_validator(mode="after")
    def _teacher_must_understand_the_text(self) -> "SearchSettings":
        if self.tokenize.tokenizer != "teacher":
            raise ValueError(
                f"tokenize.tokenizer={self.tokenize.tokenizer} gives the shapes another vocabulary than the teacher's, so "
                "they cannot be compared with it: set tokenize.tokenizer=teacher"
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


class TaskSettings(TasksInput):
    """Tasks with known answers, and how models are asked them."""

    score_tasks: ScoreTasksConfig = ScoreTasksConfig()
    """How models are asked, if there are `tasks`, or tasks of lm-eval's (score_tasks.names)."""


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


class CompressSettings(QuantizeSettings, CorpusSettings, ModelSetting):
    """A model, and how it is made smaller."""

    corpus: tuple[str, ...] = ()
    """Text to calibrate on, as the model was trained on: folders and files, or `sample`. Without it all inputs of a layer
    count the same; with bounds for the format `mixed` it is the sample then."""
    describe_model: DescribeModelConfig = DescribeModelConfig()
    """How the model's parameters are counted before."""


class ModelsInput(StageConfig):
    """The models that go in."""

    models: tuple[str, ...] = Field(("smollm2-135m-instruct",), min_length=1)
    """The models to compare: folders, .gguf files, hub ids, or `smollm2-135m-instruct` or `tiny`."""


class AnswersInput(StageConfig):
    """The conversations that go in."""

    instructions: str | None = Field(None, min_length=1)
    """Conversations that none of the models learned from, to score their answers: a .json or .jsonl file or folder; empty for none."""


class CompareSettings(TaskSettings, EvaluateSettings, CorpusSettings, TasksInput, AnswersInput, ModelsInput):
    """Models, and the text and the answers they are measured on."""


class HumanEvaluationSettings(StageConfig):
    """Two models, what they are asked, and people's votes on their answers."""

    models: tuple[str, ...] = Field(("leanpipe@champion", "leanpipe@challenger"), min_length=2, max_length=2)
    """Two models, of which the second is asked whether it is preferred: folders, .gguf files, hub ids, registered models as
    NAME@ALIAS or NAME@VERSION, or `smollm2-135m-instruct` or `tiny`."""
    prompt_set: str | None = Field(None, min_length=1)
    """What they are asked: a .txt file with a prompt in each line, or .json, .jsonl or .csv; empty for answer_prompts.prompts."""
    votes: tuple[str, ...] = Field((), max_length=1_000)
    """Filled sheets, each a path or its text; empty to pause, and to ask for them on the run's page in Prefect."""
    wait_hours: float = Field(24.0, ge=0.0, le=1_000.0)
    """How long the run waits for votes, and holds its worker; 0 ends it when the sheets are there: give them as votes later."""
    answer_prompts: AnswerPromptsConfig = AnswerPromptsConfig()
    """How the models answer."""
    blind_sheets: BlindSheetsConfig = BlindSheetsConfig()
    """How their answers are mixed."""


class SweepConfig(StageConfig):
    """Which settings are tried with each of `quantize.formats`."""

    embeddings: tuple[GgufType, ...] = Field(("q8_0", "q5_0", "q4_0"), min_length=1, max_length=10)
    """GGUF of fewer than 8 bits alone: what embeddings and output layer become, each tried with each format."""


class SweepSettings(
    TaskSettings, EvaluateSettings, QuantizeSettings, CorpusSettings, TasksInput, ModelSetting
):
    """A model, the formats and settings to make of it, and the text and the tasks that they are measured on."""

    sweep: SweepConfig = SweepConfig()
    """Which settings are tried with each format."""


class PipelineConfig(
    RegisterSettings,
    TaskSettings,
    EvaluateSettings,
    ParitySettings,
    QuantizeSettings,
    RoundingSettings,
    InstructionSettings,
    OnPolicySettings,
    DistillSettings,
    CorpusSettings,
    TasksInput,
    TeacherInput,
    InstructionsInput,
    CorpusInput,
):
    """Every setting of the pipeline: what goes in, and one section for each stage."""

    @model_validator(mode="after")
    def _adapters_keep_zeros(self) -> "PipelineConfig":
        if self.prune.sparsity and (self.finetune.adapter == "dora" or self.finetune.base != "full"):
            raise ValueError(
                f"prune.sparsity={self.prune.sparsity:g} sets weights to zero, and zeros are only kept by adapters on weights in full "
                "that are plain sums: set finetune.adapter to lora or rslora and finetune.base=full, or prune.sparsity=0"
            )
        return self

    @model_validator(mode="after")
    def _factors_load_here_alone(self) -> "PipelineConfig":
        if not self.low_rank.is_whole and self.low_rank.saved == "factored":
            raise ValueError(
                "low_rank.saved=factored makes a model that leanpipe alone loads, and not llama.cpp, ONNX and MLflow, which serve and "
                "keep what this flow makes: set low_rank.saved=dense, or run the flow distill, which ends before them"
            )
        return self

    @model_validator(mode="after")
    def _teacher_must_understand_the_answers(self) -> "PipelineConfig":
        if self.tokenize.tokenizer != "teacher" and self.on_policy.steps:
            raise ValueError(
                f"tokenize.tokenizer={self.tokenize.tokenizer} gives the student another vocabulary than the teacher's, "
                "which cannot say what it thinks of its answers: set on_policy.steps=0, or tokenize.tokenizer=teacher"
            )
        return self

    @model_validator(mode="after")
    def _margins_must_be_measured(self) -> "PipelineConfig":
        policy = self.registration
        asked = [
            *(one.name for one in policy.parsed_margins()),
            *(one.name for one in policy.parsed_bounds()),
        ]
        of_tasks = [name for name in asked if name.startswith("tasks/")]
        if of_tasks and not (self.tasks or self.score_tasks.names):
            raise ValueError(
                f"registration asks for {of_tasks[0]}, and no tasks are asked: name them in tasks or score_tasks.names"
            )
        of_answers = [name for name in asked if name.startswith("answer_")]
        if of_answers and not self.evaluate.conversations:
            raise ValueError(
                f"registration asks for {of_answers[0]}, and no answers are scored: raise evaluate.conversations"
            )
        return self

    @model_validator(mode="after")
    def _bounds_must_be_of_stages(self) -> "PipelineConfig":
        for bound in self.registration.parsed_bounds():
            stage, dot, _ = bound.name.partition(".")
            if dot and stage not in type(self).model_fields:
                raise ValueError(
                    f"registration.bounds: no stage is called {stage} ({bound.name}): write the name of a section of settings "
                    "and of a figure of its stage, as finetune.forgotten_bits_per_byte"
                )
        return self


class RollbackSettings(StageConfig):
    """Which version is champion again, and who says so."""

    name: str = Field("leanpipe", min_length=1, max_length=100)
    """Name of the registered model."""
    version: str = Field("", pattern=r"^[0-9]{0,9}$")
    """Number of the version; if empty, the champion before this one."""
    by: str = Field("", pattern=r"^[^\n]{0,100}$")
    """Who wants it; if empty, the user who runs this."""
    why: str = Field("", pattern=r"^[^\n]{0,1000}$")
    """Why, for whoever reads the champion's history."""


SETTINGS: dict[str, type[StageConfig]] = {
    "data-to-deployment": PipelineConfig,
    "inspect-corpus": InspectSettings,
    "prepare-corpus": TokenSettings,
    "distill": DistillSettings,
    "shrink": ShrinkSettings,
    "search-shapes": SearchSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "compress": CompressSettings,
    "evaluate": CompareSettings,
    "sweep": SweepSettings,
    "human-evaluation": HumanEvaluationSettings,
}
"""What each flow is told, by its name: known without loading a flow, so that a misspelt setting is refused at once."""
CORPUS_FLOWS = ("inspect-corpus", "prepare-corpus")
"""Those that only read text: there is no model to plan for."""
