import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import data_to_deployment, distill, finetune, pretrain
from leanpipe.compression.quantize import QuantizeConfig, quantize
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, Expected
from leanpipe.core.report import Silent
from leanpipe.core.stage import Stage
from leanpipe.core.store import Store, content_digest, digest_files, external
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.passes.execution import ExecutionConfig
from leanpipe.corpus.sources.file_index import index_corpus
from leanpipe.corpus.sources.read_log import ReadLog
from leanpipe.evaluation.evaluate import EvaluateConfig, evaluate
from leanpipe.models.count import count_parameters, empty_model, read_config
from leanpipe.planning.history import History
from leanpipe.planning.machine import Machine, machine
from leanpipe.planning.plan import Plan, StagePlan, plan_flow, plan_on
from leanpipe.planning.references import describe_model, referred_bytes
from leanpipe.planning.steps import RunInputs, steps_of
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings.flows import DistillSettings, FinetuneSettings, PipelineConfig, PretrainSettings
from leanpipe.shrink.shrink import ShrinkConfig, student_config
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.distill.distill import distill as distill_stage
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.finetune.finetune import finetune as finetune_stage
from leanpipe.training.finetune.lora import lora_config
from leanpipe.training.on_policy.on_policy import OnPolicyConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig
from leanpipe.training.pretrain.pretrain import pretrain as pretrain_stage
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.memory import lora_parameters, size_of, training_memory
from leanpipe.training.vocabulary.cut_vocabulary import CutVocabularyConfig
from tests.support.tiny_models import tiny_llama, tiny_model

GIGABYTE = 10**9
TINY = tiny_llama().config
BOX = Machine("a box", "cpu", 64 * GIGABYTE, 64 * GIGABYTE, 100 * GIGABYTE, 1e12)
STORIES: dict[type, Any] = {
    PipelineConfig: data_to_deployment.stages,
    DistillSettings: distill.stages,
    PretrainSettings: pretrain.stages,
    FinetuneSettings: finetune.stages,
}


def known(model: Any = None, corpus: int = 0) -> RunInputs:
    """A run's inputs, of which only this much is known."""
    models = (Expected(facts={"model": model or TINY}),)
    return RunInputs((Expected(facts={"bytes": corpus}),), models, Expected())


def plan_of(settings: Any, model: Any = None, where: Machine = BOX, corpus: int = 0) -> Plan:
    return plan_flow(STORIES[type(settings)], settings, known(model, corpus), where)


def labels(plan: Plan) -> list[str]:
    return [one.label for one in plan.stages]


def estimate(stage: Stage, config: Any, kind: Any, **inputs: Any) -> Estimate:
    """An estimate of a stage whose inputs are models, or blocks as (length, vocabulary)."""
    facts = {
        role: {"block_length": value[0], "vocabulary": value[1]} if role == "blocks" else {"model": value}
        for role, value in inputs.items()
    }
    assert stage.estimate
    return stage.estimate(config, {role: Expected(facts=one) for role, one in facts.items()}, kind)


def distilled(
    config: DistillConfig, teacher: Any, block: int, kind: Any, shape: ShrinkConfig | None = None
) -> Estimate:
    student = student_config(shape or ShrinkConfig(), teacher)
    return estimate(distill_stage, config, kind, teacher=teacher, student=student, blocks=(block, 0))


def pretrained(config: PretrainConfig, vocabulary: int, block: int, kind: Any) -> Estimate:
    return estimate(pretrain_stage, config, kind, blocks=(block, vocabulary))


def test_weights_gradients_and_states_are_counted_by_the_byte():
    config = TrainingConfig(precision="fp32", micro_batch=2, batch=2)
    parameters = count_parameters(tiny_llama())
    memory = training_memory(size_of(TINY), config, 32, kind="cpu", process=7, teacher=11)
    assert memory.parts["weights"] == memory.parts["gradients"] == 4 * parameters
    assert memory.parts["optimiser"] == 8 * parameters
    assert memory.parts["low-precision copies"] == 0
    assert memory.parts["logits"] == 64 * 512 * 12
    assert memory.peak >= 7 + 11 + 16 * parameters


def test_a_vocabulary_is_cut_unless_it_is_kept_or_new():
    whole = CutVocabularyConfig(keep="all")
    own = DistillSettings(tokenize=TokenizeConfig(tokenizer="bpe"), distill=DistillConfig(kl_weight=0))
    plans = [plan_of(one) for one in (DistillSettings(), DistillSettings(cut_vocabulary=whole), own)]
    assert ["cut_vocabulary" in labels(plan) for plan in plans] == [True, False, False]


def test_what_is_in_shards_is_counted_as_a_part_of_it():
    config = TrainingConfig(precision="fp32", batch=4)
    alone, shared = (
        training_memory(size_of(TINY), config.model_copy(update=update), 32, kind="cpu", process=7)
        for update in ({"processes": 4}, {"processes": 4, "sharding": "full"})
    )
    for name in ("weights", "gradients", "optimiser"):
        assert shared.parts[name] == alone.parts[name] // 4
    assert alone.parts["gathered weights"] == 0 < shared.parts["gathered weights"]
    large = describe_model("smollm2-135m-instruct")
    config = PretrainConfig(depth=12, width=4096, batch=8, processes=8, micro_batch=1)
    divided = PretrainConfig(**{**config.model_dump(), "sharding": "full"})
    one, other = (pretrained(each, large.vocab_size, 512, "cuda") for each in (config, divided))
    assert other.peak < one.peak / 2 and other.host > one.host and other.disk == one.disk


def test_a_knob_that_shards_forbid_is_not_turned():
    config = PretrainConfig(depth=12, batch=2, processes=2, micro_batch=1, sharding="full")
    settings = PretrainSettings(pretrain=config)
    small = replace(BOX, device_memory=GIGABYTE // 10)
    fault = plan_of(settings, None, small).faults()[0]
    assert "pretrain needs" in fault and "optimizer" not in fault


def test_adapters_are_counted_as_peft_makes_them():
    from peft import get_peft_model

    for targets in (("all-linear",), ("q_proj", "down_proj")):
        model = get_peft_model(tiny_llama(), lora_config(4, 8, 0.0, targets))
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        assert lora_parameters(TINY, 4, targets) == trained


def test_a_named_model_is_described_without_being_fetched():
    assert count_parameters(empty_model(describe_model("smollm2-135m-instruct"))) == 134_515_008
    assert describe_model("tiny").hidden_size == 64
    with pytest.raises(UserError, match="model no/such: it is no folder"):
        describe_model("no/such")


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"micro_batch": 8}, {"micro_batch": 1}),
        ({}, {"gradient_checkpointing": True}),
        ({"optimizer": "adamw"}, {"optimizer": "adamw_8bit"}),
        ({"optimizer": "adamw_8bit"}, {"optimizer": "adafactor"}),
    ],
)
def test_each_knob_saves_memory(more, less):
    def peak(settings):
        return pretrained(PretrainConfig(depth=8, batch=8, **settings), 8192, 512, "cuda").peak

    assert peak(more) > peak(less)


def test_the_advice_brings_it_under():
    settings = PretrainSettings(
        pretrain=PretrainConfig(depth=12, batch=32, micro_batch=32),
        tokenize=TokenizeConfig(tokenizer="bpe", block_length=1024),
    )
    roomy = plan_of(settings)
    assert roomy.faults() == []
    small = replace(BOX, device_memory=8 * GIGABYTE)
    (fault,) = plan_of(settings, None, small).faults()
    assert "pretrain needs" in fault and "set pretrain.micro_batch=" in fault
    size = int(fault.rpartition("=")[2])
    for micro_batch, fits in ((size, True), (2 * size, False)):  # and no smaller than it must be
        advised = PretrainConfig(depth=12, batch=32, micro_batch=micro_batch)
        planned = plan_of(settings.model_copy(update={"pretrain": advised}), None, small)
        assert (planned.faults() == []) == fits
    with pytest.raises(UserError, match="or a larger card"):
        plan_of(settings, None, replace(BOX, device_memory=GIGABYTE)).check()


def test_a_disk_that_is_too_small_is_found():
    with pytest.raises(UserError, match=r"of disk, and 0\.00 GB are free"):
        plan_of(FinetuneSettings(), TINY, replace(BOX, disk=1)).check()


def test_a_flow_is_planned_stage_by_stage_with_the_student_that_will_be_made():
    teacher = describe_model("smollm2-135m-instruct")
    plan = plan_of(PipelineConfig(), teacher)
    names = ("teacher", "student", "adapted", "q8_0", "q4_0")
    evaluations = [f"evaluate-{name}" for name in names]
    first = ["cut_vocabulary", "shrink", "cache_teacher", "distill", "finetune"]
    aware = ["quantization_aware", "quantize", "quantize-q4_0"]
    assert labels(plan) == [*first, *aware, *evaluations]
    _, shrunk, asked, distilled, finetuned, rounded, _, _, *evaluated = (one.estimate for one in plan.stages)
    assert rounded.parts["teacher"] > 0
    assert evaluated[0].disk == estimate(evaluate, EvaluateConfig(), "cpu", model=teacher).disk
    assert evaluated[0].peak > evaluated[1].peak
    assert asked.parts["weights"] > 0 == distilled.parts["teacher"] and finetuned.peak < distilled.peak
    assert shrunk.result["model"].num_hidden_layers < 30 and shrunk.parts["teacher"] > 0
    whole = estimate(finetune_stage, FinetuneConfig(), "cpu", model=teacher)
    assert finetuned.peak < whole.peak  # the student is smaller
    assert plan.seconds == sum(one.seconds for one in plan.stages) > 0
    page = plan.markdown()
    assert "| distill |" in page and "a box" in page and "Does not fit" not in page


def test_a_teacher_that_is_asked_at_every_step_is_in_memory():
    teacher = describe_model("smollm2-135m-instruct")
    online = DistillConfig(teacher_logprobs="online")
    plan = plan_of(DistillSettings(distill=online), teacher)
    assert labels(plan) == ["cut_vocabulary", "shrink", "distill"]
    cached = distilled(DistillConfig(), teacher, 256, "cuda")
    assert plan.stages[2].estimate.parts["teacher"] > 0
    assert distilled(online, teacher, 256, "cuda").peak > cached.peak


def test_a_narrower_student_takes_less():
    teacher = describe_model("smollm2-135m-instruct")
    whole, narrow = (
        distilled(DistillConfig(), teacher, 256, "cuda", ShrinkConfig(size=0.2, width=width))
        for width in (0.8, 0.4)
    )
    head = "output layer's gradients"
    assert narrow.parts[head] < 0.6 * whole.parts[head]


def test_learning_from_own_answers_is_planned_where_it_is_asked_for():
    teacher = describe_model("smollm2-135m-instruct")
    asked = PipelineConfig(on_policy=OnPolicyConfig(steps=10, batch=32))
    assert labels(plan_of(asked, teacher))[3:6] == ["distill", "on_policy", "finetune"]
    small = replace(BOX, device_memory=8 * GIGABYTE)
    (fault,) = plan_of(asked, teacher, small).faults()
    size = int(fault.partition("set on_policy.micro_batch=")[2])
    advised = asked.model_copy(update={"on_policy": OnPolicyConfig(steps=10, batch=32, micro_batch=size)})
    assert not plan_of(advised, teacher, small).faults()


def test_a_card_is_named_by_its_gigabytes(tmp_path):
    settings = DistillSettings(
        distill=DistillConfig(batch=16, micro_batch=16), tokenize=TokenizeConfig(block_length=1024)
    )
    teacher = describe_model("smollm2-135m-instruct")
    peaks = {
        name: plan_on(name, distill.stages, settings, known(teacher), Store(tmp_path))
        for name in ("8", "24", "80")
    }
    assert [bool(plan.faults()) for plan in peaks.values()] == [True, False, False]
    modest = DistillSettings()
    assert not plan_on("8", distill.stages, modest, known(teacher), Store(tmp_path)).faults()
    with pytest.raises(UserError, match="--device 16: choose this, or a card by its gigabytes: 8, 24, 80"):
        machine("16", tmp_path)


def publish(
    store: Store, stage: str, key: str, config=None, inputs=None, summary=None, seconds=0.0, peak=0, **more
):
    store.publish(
        stage,
        key,
        config=config or {},
        inputs=inputs or {},
        summary=summary or {},
        versions={},
        seconds=seconds,
        peak_memory=peak,
        **{"device": device.model()} | more,
    )
    return content_digest(digest_files(store.path(stage, key)))


def test_earlier_runs_correct_the_plan(tmp_path):
    store = Store(tmp_path)
    tiny_model(store.partial("import_gguf", "t"))
    teacher = publish(store, "import_gguf", "t")
    (store.partial("tokenize", "b") / "blocks.npy").write_text("blocks")
    blocks = publish(store, "tokenize", "b", {"block_length": 64}, summary={"vocabulary": 512})
    config = DistillConfig(tokens=10_000, precision="fp32")
    found = read_config(store.path("import_gguf", "t"))
    first = distilled(config, found, 64, "cpu", ShrinkConfig(size=1))
    for number, factor in enumerate((1.5, 2.0, 9.0)):
        (store.partial("distill", f"{number}") / "model").write_text(f"{number}")
        publish(
            store,
            "distill",
            f"{number}",
            config.model_dump(mode="json"),
            {"teacher": teacher, "blocks": blocks},
            seconds=100.0,
            peak=round(factor * first.peak),
        )
    history = History(store, "cpu")
    plan = distilled(DistillConfig(), found, 64, "cpu", ShrinkConfig(size=1))
    corrected, basis = history.correct(distill_stage, plan)
    assert corrected.peak == pytest.approx(2 * plan.peak, abs=2)  # the median
    assert history.seconds(distill_stage, plan) == (pytest.approx(100 * plan.work / first.work), 3)
    assert basis == "corrected by 3 earlier runs"
    other = pretrained(PretrainConfig(), 512, 64, "cpu")
    assert history.correct(pretrain_stage, other) == (other, "computed")
    assert history.seconds(pretrain_stage, other) == (0, 0)


def test_a_run_on_another_device_corrects_nothing(tmp_path):
    """Neither one of another card nor one of old, whose manifest names no device."""
    store = Store(tmp_path)
    tiny_model(store.partial("import_gguf", "t"))
    model = publish(store, "import_gguf", "t")
    plan = estimate(quantize, QuantizeConfig(), "cpu", model=read_config(store.path("import_gguf", "t")))
    names = ("another device", "", device.model())
    for name, corrected in zip(names, (1, 1, 2), strict=True):
        (store.partial("quantize", f"of {name}") / "model").write_text(name)
        config = QuantizeConfig().model_dump(mode="json")
        publish(store, "quantize", f"of {name}", config, {"model": model}, peak=2 * plan.peak, device=name)
        correction, _ = History(store, "cpu").correct(quantize, plan)
        assert correction.peak == corrected * plan.peak
    old = store.path("quantize", "of ") / "manifest.json"
    old.write_text(json.dumps({k: v for k, v in json.loads(old.read_text()).items() if k != "device"}))
    assert store.find("quantize", "of ")
    assert History(store, "cpu").correct(quantize, plan)[1] == "corrected by 1 earlier run"


def test_a_stage_writes_down_the_device_that_computed_it(tmp_path):
    store = Store(tmp_path / "store")
    inputs = {"model": external("tiny", tiny_model(tmp_path / "tiny"))}
    made = run_stage(quantize, QuantizeConfig(formats=("nf4",)), inputs, store, Silent())
    assert json.loads((made.path / "manifest.json").read_text())["device"] == device.model() != ""


def test_the_teacher_makes_room_for_the_student():
    teacher = describe_model("smollm2-135m-instruct")
    online = DistillConfig(teacher_logprobs="online", frozen="none")
    settings = DistillSettings(distill=online, cut_vocabulary=CutVocabularyConfig(keep="all"))
    whole = distilled(online, teacher, 256, "cuda")
    small = replace(BOX, kind="cuda", device_memory=whole.peak - whole.parts["teacher"] // 2)
    planned: StagePlan = plan_of(settings, teacher, small).stages[1]
    assert planned.estimate.peak == small.device_memory
    assert planned.estimate.host == whole.host + whole.parts["teacher"] - whole.parts["teacher"] // 2
    assert "off the device" in planned.basis
    smaller = replace(small, device_memory=whole.peak - whole.parts["teacher"])
    assert "distill needs" in plan_of(settings, teacher, smaller).faults()[0]


def test_text_takes_disk_and_host_memory_but_no_card():
    settings, card = PipelineConfig(), replace(BOX, kind="cuda")
    teacher = describe_model("smollm2-135m-instruct")
    small, large = (
        {one.label: one.estimate for one in plan_of(settings, teacher, card, size).stages}
        for size in (10**7, 10**10)
    )
    assert list(small)[:3] == ["clean", "cut_vocabulary", "tokenize"]
    for stage in ("clean", "tokenize"):
        assert small[stage].peak == 0 and small[stage].host > 4 * 10**8
        assert large[stage].disk == pytest.approx(1000 * small[stage].disk)
        assert large[stage].host < 100 * small[stage].host  # texts are worked on in shards
    many = settings.model_copy(update={"clean": CleanConfig(execution=ExecutionConfig(workers=500))})
    (fault,) = plan_of(many, teacher, replace(card, disk=10**12), 10**11).faults()
    assert "clean needs" in fault and "lower clean.execution.workers" in fault


def test_the_size_of_a_corpus_is_known_before_it_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in (("a.txt", 100), ("in/b.txt", 50)):
        (tmp_path / name).write_text("x" * size)
    assert referred_bytes([str(tmp_path), str(tmp_path / "a.txt"), "sample"]) == 250
    listing = index_corpus(str(tmp_path), ReadLog())
    listing.save(tmp_path / "listing.json")
    given = RunInputs((external("listing", tmp_path / "listing.json"),), known().models, Expected())
    (cleaned, *_) = steps_of(data_to_deployment.stages, PipelineConfig(), given, "cpu")
    assert cleaned.label == "clean" and cleaned.estimate.result["bytes"] == 150


def test_a_step_is_told_to_another_process_by_names(tmp_path: Path):
    steps = steps_of(data_to_deployment.stages, PipelineConfig(), known(), "cpu")
    told = {step.label: step.portable() for step in steps}
    assert told["clean"].inputs == {"corpus": ["corpus.0"]}
    assert told["distill"].inputs == {
        "teacher": "cut_vocabulary",
        "blocks": "tokenize",
        "teacher_logprobs": "cache_teacher",
        "student": "shrink",
    }
    measured_on = {"documents": "clean", "instructions": "hold-out/conversations"}
    assert told["evaluate-q8_0"].inputs == {"model": "quantize/q8_0", **measured_on}


def test_a_result_of_other_settings_or_lost_inputs_corrects_nothing(tmp_path):
    store = Store(tmp_path)
    for key, config in (("a", {"misspelt": 1}), ("b", DistillConfig().model_dump(mode="json"))):
        (store.partial("distill", key) / "model").write_text(key)
        publish(store, "distill", key, config, {"teacher": "gone", "blocks": "gone"}, seconds=50, peak=10**9)
    plan = distilled(DistillConfig(), TINY, 64, "cpu")
    assert History(store, "cpu").correct(distill_stage, plan)[1] == "computed"
