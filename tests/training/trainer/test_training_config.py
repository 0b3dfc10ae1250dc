import pytest
from pydantic import ValidationError

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.trainer.config import TrainingConfig, check_training


def test_a_batch_is_made_of_whole_micro_batches():
    with pytest.raises(ValidationError, match=r"batch \(6\) must be a multiple of micro_batch \(4\)"):
        TrainingConfig(batch=6, micro_batch=4)
    assert TrainingConfig(batch=8, micro_batch=2).in_memory == 2
    assert TrainingConfig(batch=2, micro_batch=4).in_memory == 2


def test_processes_share_a_batch():
    with pytest.raises(ValidationError, match=r"batch \(5\) must be a multiple of processes \(2\)"):
        TrainingConfig(batch=5, processes=2)
    with pytest.raises(
        ValidationError, match=r"batch / processes \(3\) must be a multiple of micro_batch \(2\)"
    ):
        TrainingConfig(batch=6, processes=2, micro_batch=2)
    assert TrainingConfig(batch=8, processes=2).in_memory == 4


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (
            TrainingConfig,
            {"processes": 1},
            "sharding=full divides a model among processes: set processes to 2",
        ),
        (TrainingConfig, {"optimizer": "muon"}, "cannot divide the state of muon: set optimizer to adamw"),
        (TrainingConfig, {"optimizer": "adamw_8bit"}, "cannot divide the state of adamw_8bit"),
        (TrainingConfig, {"optimizer": "adafactor"}, "cannot divide the state of adafactor"),
        (
            TrainingConfig,
            {"precision": "fp16"},
            "works with precision bf16 or fp32, and with compile turned off",
        ),
        (TrainingConfig, {"compile": True}, "works with precision bf16 or fp32, and with compile turned off"),
        (FinetuneConfig, {"base": "nf4"}, "cannot divide weights of 4 bits: set base to full"),
    ],
)
def test_what_cannot_be_in_shards_is_refused(kind, settings, sentence):
    kind(batch=2, **{"processes": 2, **settings})
    with pytest.raises(ValidationError, match=sentence):
        kind(batch=2, sharding="full", **{"processes": 2, **settings})


@pytest.mark.skipif(device.name() != "cpu", reason="a GPU has paging")
def test_a_paged_optimizer_needs_a_gpu():
    with pytest.raises(UserError, match="optimizer adamw_8bit_paged needs a GPU: use adamw_8bit"):
        check_training(TrainingConfig(optimizer="adamw_8bit_paged"))


@pytest.mark.skipif(device.name() != "cpu", reason="a GPU has fp16")
def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="precision fp16 needs a GPU"):
        check_training(TrainingConfig(precision="fp16"))


def test_auto_is_bf16_where_the_device_has_it():
    assert TrainingConfig().arithmetic == ("bf16" if device.has_bfloat16() else "fp32")
    assert TrainingConfig(precision="fp32").arithmetic == "fp32"


@pytest.mark.parametrize("kind", [TrainingConfig, DistillConfig, FinetuneConfig])
def test_every_field_has_a_help_text_and_every_number_bounds(kind):
    for name, field in kind.model_json_schema()["properties"].items():
        assert field.get("description"), name
        if field.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & field.keys(), name
            assert {"maximum", "exclusiveMaximum"} & field.keys(), name
