"""The whole story: from a folder of documents to a registered, quantised model."""

from prefect import flow

from flows.results import RunResult, show
from flows.settings_page import show_settings
from leanpipe.compression.quantize import quantize
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.presets import Preset
from leanpipe.settings.quick import QuickSettings
from leanpipe.training.distill.distill import distill
from leanpipe.training.finetune.finetune import finetune
from leanpipe.training.on_policy.on_policy import on_policy
from tasks.corpus import cleaned, tokenized
from tasks.distillation import predicted
from tasks.plan import plan
from tasks.promote import promote
from tasks.resolve import preflight, resolve
from tasks.run import tracked_run


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
    with tracked_run("data-to-deployment", config) as run:
        show_settings(run, choice)
        given = resolve(
            run,
            corpus=config.corpus,
            models=(config.teacher,),
            evaluations=config.evaluation_sets,
            instructions=config.instructions,
        )
        preflight(
            run,
            given,
            distill=config.distill,
            on_policy=config.on_policy if config.on_policy.steps else None,
            finetune=config.finetune,
            quantize=config.quantize,
        )
        plan(run, config, given)

        documents = cleaned(run, config, given)
        blocks = tokenized(run, config, given, documents)
        predictions = predicted(run, config, given, blocks)
        student = run.stage(distill, config.distill, teacher=given.model, blocks=blocks, **predictions)
        if config.on_policy.steps:
            student = run.stage(
                on_policy,
                config.on_policy,
                teacher=given.model,
                student=student,
                instructions=given.instructions,
            )
        adapted = run.stage(
            finetune,
            config.finetune,
            model=student,
            instructions=given.instructions,
            documents=documents,
        )
        quantized = run.stage(quantize, config.quantize, model=adapted)

        models = {"teacher": given.model, "student": student, "adapted": adapted}
        models |= {form: quantized.inside(form) for form in config.quantize.formats}
        evaluations = {
            label: run.stage(
                evaluate, config.evaluate, label=f"evaluate-{label}", model=model, documents=documents
            )
            for label, model in models.items()
        }
        registered = promote(run, config, models, evaluations, documents)
        return show(run, evaluations, registered)
