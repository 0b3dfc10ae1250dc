"""The whole story: from a folder of documents to a registered, quantised model."""

from prefect import flow

from flows.results import RunResult, show
from leanpipe.compression.quantize import quantize
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.settings.flows import PipelineConfig
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
def data_to_deployment(config: PipelineConfig = PipelineConfig()) -> RunResult:
    """Clean and tokenise a corpus, distil a student, finetune, quantise and evaluate it, and register the best.

    Args:
        config: What goes in, and one section for each stage. A stage whose settings and inputs were seen before comes
            from the store.
    """
    with tracked_run("data-to-deployment", config) as run:
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
        teacher_logprobs = predicted(run, config, given, blocks)
        student = run.stage(distill, config.distill, teacher=given.model, blocks=blocks, **teacher_logprobs)
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
