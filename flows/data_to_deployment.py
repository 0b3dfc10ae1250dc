"""The whole story: from a folder of documents to a registered, quantised model."""

from typing import Any, NamedTuple

from prefect import flow

from flows import distill
from flows.compress import quantize_measured
from flows.evaluate import evaluate_all, score_all
from flows.results import RunResult, show
from leanpipe.compression.quantize import QuantizeConfig, with_formats
from leanpipe.compression.quantize_gguf import gguf_types
from leanpipe.evaluation.decide.units import check_unit
from leanpipe.evaluation.parity.parity import parity
from leanpipe.planning.steps import RunInputs, StageRunner
from leanpipe.planning.within_minutes import LENGTHS
from leanpipe.quantization_aware.quantization_aware import (
    QuantizationAwareConfig,
    quantization_aware,
)
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.presets import Preset
from leanpipe.settings.quick import QuickSettings
from leanpipe.teacher_text.write import write, write_config
from leanpipe.training.finetune.finetune import finetune
from leanpipe.training.finetune.hold_out import FOLDER as HELD_OUT
from leanpipe.training.finetune.hold_out import HoldOutConfig, hold_out_instructions
from leanpipe.training.on_policy.on_policy import on_policy
from tasks.preflight import decide_lengths, preflight
from tasks.promote import promote
from tasks.run import tracked_run
from tasks.run_inputs import resolve
from tasks.tracking.elsewhere import check_champion
from tasks.tracking.patience import ask_aside
from tasks.tracking.settings_page import show_settings


@flow(name="data-to-deployment")
def data_to_deployment(config: QuickSettings = QuickSettings()) -> RunResult:
    """Make a small model of a large one and your text: clean the text, distill, finetune, quantize, evaluate, register.

    Args:
        config: What goes in, and what comes out. Whatever is left empty is filled in by the preset.
    """
    return _run(config.resolve(), config)


@flow(name="data-to-deployment")
def data_to_deployment_expert(config: PipelineConfig = PipelineConfig()) -> RunResult:
    """Make a small model of a large one and your text, with every setting of every stage to choose.

    Args:
        config: What goes in, and one section for each stage. A stage whose settings and inputs were seen before comes
            from the store.
    """
    return _run(config, QuickSettings.describing(config, Preset.CPU))


def _run(config: PipelineConfig, choice: QuickSettings) -> RunResult:
    undecided = LENGTHS if config.minutes else ()
    with tracked_run("data-to-deployment", config, undecided=undecided) as run:
        show_settings(run, choice)
        check_unit(config.registration.unit)
        ask_aside("the champion", lambda: check_champion(config.registration.name))
        given = resolve(
            run,
            corpus=config.corpus,
            models=(config.teacher,),
            evaluation_sets=config.evaluation_sets,
            instructions=config.instructions,
            tasks=config.tasks,
        )
        config = decide_lengths(run, stages, config, given)
        preflight(run, stages, config, given)
        made = stages(run, config, given)
        registered = promote(
            run,
            config,
            made.models,
            made.evaluations,
            made.documents,
            made.held_out,
            made.trained,
            given.tasks,
        )
        return show(run, made.evaluations, registered)


class Made(NamedTuple):
    """What the pipeline makes, before it is decided what is registered."""

    documents: Any
    models: dict[str, Any]
    """The teacher and every model that was made of it, by name."""
    evaluations: dict[str, Any]
    """By the same names."""
    trained: dict[str, Any]
    """By the name of a form, the model that it is a form of."""
    held_out: Any = None
    """Conversations that nothing learned from."""


def stages(run: StageRunner, config: PipelineConfig, given: RunInputs) -> Made:
    """Prepare the corpus, distil, finetune, quantise, see that what is served is what was trained, and evaluate every
    model on the same held-out text."""
    distilled = distill.stages(run, config, given)
    documents, student = distilled.documents, distilled.student
    if config.on_policy.steps:
        student = run.stage(
            on_policy,
            config.on_policy,
            teacher=distilled.teacher,
            student=student,
            instructions=given.instructions,
        )
    adapted = _finetuned(run, config, given, student, distilled.teacher, documents)
    chosen = with_formats(config.quantize, given.model, config.tokenize.tokenizer)
    trained = dict.fromkeys(("adapted", *chosen.formats), adapted)
    if config.quantization_aware.tokens and _ON_ITS_GRID in chosen.formats:
        trained[_ON_ITS_GRID] = run.stage(
            quantization_aware,
            _aware(config),
            model=adapted,
            blocks=distilled.blocks,
            instructions=given.instructions,
            teacher_logprobs=distilled.teacher_logprobs,
        )
    models = {"teacher": given.model, "student": student, "adapted": adapted}
    models |= _quantized(run, chosen, trained, documents)
    if config.parity.models == "all":
        for name, model in trained.items():
            run.stage(parity, config.parity, label=f"parity-{name}", model=model, served=models[name])
    held_out = None
    if config.evaluate.conversations:
        asked = HoldOutConfig.of(config.finetune)
        held = run.stage(
            hold_out_instructions, asked, label="hold-out", model=student, instructions=given.instructions
        )
        held_out = held.inside(HELD_OUT)
    evaluations = evaluate_all(run, config, models, documents, held_out)
    score_all(run, config, models, given.tasks)
    return Made(documents, models, evaluations, trained, held_out)


def _finetuned(
    run: StageRunner, config: PipelineConfig, given: RunInputs, student: Any, teacher: Any, documents: Any
) -> Any:
    """The student with what it learned of the instructions, and of what its teacher says to them if both read the same tokens."""
    settings = config.finetune if config.tokenize.tokenizer == "teacher" else config.finetune.alone()
    written = None
    if settings.written_share:
        asked = write_config(config.write, config.clean, settings.written_share, settings.tokens)
        written = run.stage(
            write, asked, label="write-answers", teacher=teacher, instructions=given.instructions
        )
    return run.stage(
        finetune,
        settings,
        model=student,
        instructions=given.instructions,
        documents=documents,
        teacher=teacher if settings.kl_weight else None,
        written=written,
    )


_ON_ITS_GRID = "q4_0"
"""The format whose grid a model is trained on before it is stored there."""


def _aware(config: PipelineConfig) -> QuantizationAwareConfig:
    """How the model is trained that q4_0 is made of: by what it will be stored as, and not on what was held out of it."""
    return QuantizationAwareConfig(
        **dict(config.quantization_aware),
        embeddings=gguf_types(_ON_ITS_GRID, config.quantize.embeddings, ()).embeddings,
        keep=config.quantize.keep,
        thoughts=config.finetune.thoughts,
        validation_share=config.finetune.validation_share,
        validation_seed=config.finetune.seed,
    )


def _quantized(
    run: StageRunner, chosen: QuantizeConfig, trained: dict[str, Any], documents: Any
) -> dict[str, Any]:
    """Every format, in the order in which they were asked for, of the model that was trained for it."""
    folders: dict[str, Any] = {}
    alone = [form for form in chosen.formats if trained[form] is not trained["adapted"]]
    together = tuple(form for form in chosen.formats if form not in alone)
    parts = {"quantize": together} | {f"quantize-{form}": (form,) for form in alone}
    for label, forms in parts.items():
        if forms:
            asked = chosen.model_copy(update={"formats": forms})
            # What lies on its grid already is not rounded, so it need not be measured how.
            text = documents if label == "quantize" else None
            made = quantize_measured(run, asked, trained[forms[0]], text, label)
            folders |= {form: made.inside(form) for form in forms}
    return {form: folders[form] for form in chosen.formats}
