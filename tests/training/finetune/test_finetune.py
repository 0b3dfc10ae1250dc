import json
from pathlib import Path

import pytest
import torch

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.models.count import read_config
from leanpipe.models.load import load_model, load_tokenizer
from leanpipe.training.finetune.finetune import FinetuneConfig, FinetuneInputs, check_finetune, finetune
from leanpipe.training.finetune.lora import check_targets
from tests.support.tiny_models import tiny_model
from tests.training.blocks import Recorder

COLOURS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "orange", "purple"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def write_instructions(path: Path) -> Path:
    records = [
        {"instruction": f"Say {name}", "output": f"{name} it is, and {name} it will be"} for name in COLOURS
    ]
    path.write_text("\n".join(map(json.dumps, records)) + "\nbroken\n")
    return path


def run(tmp_path, model, **settings):
    torch.set_num_threads(1)
    base = {"tokens": 20 * 2 * 64, "batch": 2, "max_length": 64, "learning_rate": 1e-2, "rank": 4, "alpha": 8}
    out = tmp_path / "out"
    out.mkdir()
    inputs = FinetuneInputs(model, write_instructions(tmp_path / "colours.jsonl"))
    return finetune.function(FinetuneConfig(**{**base, **settings}), inputs, out, Recorder()), out


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 40, 50, 60, 70]], device=model.device)).logits.float()


def test_a_model_learns_to_answer(tmp_path, model):
    summary, out = run(tmp_path, model, validation_share=0.2, tokens=40 * 128)
    # A frozen head of width 64 cannot go much further: its logits are never above 1.3.
    assert summary["validation_loss"] < 0.95 * summary["initial_validation_loss"]
    assert (summary["examples"], summary["skipped"]) == (10, 1)
    tokenizer = load_tokenizer(out)
    assert tokenizer.chat_template
    page = (out / "report" / "mask.md").read_text()
    assert "learnt" in page and (out / "report" / "loss.png").exists()
    # Rank 4 on 64→64, 64→32 twice, 64→64, then 64→128 twice and 128→64, in each of two layers.
    assert summary["trainable_parameters"] == 2 * 4 * (128 + 96 + 96 + 128 + 3 * 192)


def test_assistant_tokens_are_counted_by_hand(tmp_path, model):
    summary, _ = run(tmp_path, model, validation_share=0.01)  # one of ten is held out
    tokenizer = load_tokenizer(model)
    lengths = [len(tokenizer.encode(f"{name} it is, and {name} it will be")) + 1 for name in COLOURS]
    assert sum(lengths) - summary["assistant_tokens"] in lengths


def test_plain_peft_loads_the_adapter_and_it_equals_the_merged_model(tmp_path, model):
    from peft import PeftModel

    _, out = run(tmp_path, model, precision="fp32")
    base, merged = load_model(model, torch.float32), load_model(out, torch.float32)
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, out / "adapter"))
    assert (adapted - before).abs().max() > 0.1
    torch.testing.assert_close(
        adapted, logits(merged), rtol=0.05, atol=0.05
    )  # the merged one is saved in bf16


@pytest.mark.parametrize("settings", [{"adapter": "dora"}, {"adapter": "rslora"}, {"base": "nf4"}], ids=str)
def test_every_kind_of_adapter_is_merged_into_full_precision_and_plain_peft_loads_it(
    tmp_path, model, settings
):
    from peft import PeftModel

    summary, out = run(tmp_path, model, precision="fp32", validation_share=0.2, **settings)
    assert summary["validation_loss"] < summary["initial_validation_loss"]
    adapted = logits(PeftModel.from_pretrained(load_model(model, torch.float32), out / "adapter"))
    merged = load_model(out, torch.float32)
    assert not hasattr(merged.config, "quantization_config")
    torch.testing.assert_close(adapted, logits(merged), rtol=0.05, atol=0.05)
    assert (adapted - logits(load_model(model, torch.float32))).abs().max() > 0.1
    written = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (written["use_dora"], written["use_rslora"]) == (
        settings.get("adapter") == "dora",
        settings.get("adapter") == "rslora",
    )


def test_an_nf4_base_keeps_a_quarter_of_the_weights_bytes(tmp_path, model):
    from leanpipe.training.finetune.lora import load_nf4

    def layers(loaded):
        return sum(weight.nbytes for name, weight in loaded.named_parameters() if "_proj" in name)

    assert layers(load_nf4(model, torch.bfloat16)) * 4 == layers(load_model(model, torch.bfloat16))


def test_gradients_through_an_nf4_base_are_those_of_its_weights_in_full_even_after_an_evaluation(model):
    """bitsandbytes packs weights when it first evaluates on some processors, and gradients through those are wrong."""
    from peft import get_peft_model

    from leanpipe.training.finetune.lora import load_nf4, lora_config

    tokens, gradients = torch.tensor([[1, 40, 50, 60, 70]], device=device.name()), []
    for full in (False, True):
        base = load_nf4(model, torch.float32)
        torch.manual_seed(0)
        adapted = get_peft_model(base.dequantize() if full else base, lora_config(4, 8, 0.0, ("all-linear",)))
        with torch.no_grad():
            adapted.eval()(tokens)
        adapted.train()(input_ids=tokens, labels=tokens).loss.backward()
        gradients.append([weight.grad.flatten() for weight in adapted.parameters() if weight.requires_grad])
    assert len(gradients[0]) == 2 * 7 * 2
    torch.testing.assert_close(torch.cat(gradients[0]), torch.cat(gradients[1]), rtol=1e-3, atol=1e-6)
    assert torch.cat(gradients[0]).abs().max() > 1e-3


def test_what_was_forgotten_is_measured_on_general_text(tmp_path, model):
    """By hand: the loss of the base and of the merged model on the held-out documents."""
    from leanpipe.corpus.document import Document
    from tests.support.cleaned_corpus import write_documents

    text = "A list holds what you put into it, in that order."
    documents = tmp_path / "documents"
    write_documents(documents / "validation" / "00000.parquet", [Document("a", text, "here")])
    out = tmp_path / "out"
    out.mkdir()
    inputs = FinetuneInputs(model, write_instructions(tmp_path / "colours.jsonl"), documents)
    config = FinetuneConfig(tokens=20 * 128, batch=2, max_length=64, learning_rate=1e-2, precision="fp32")
    summary = finetune.function(config, inputs, out, Recorder())
    tokens = torch.tensor([[0, *load_tokenizer(model).encode(text)]], device=device.name())
    for name, folder in (("general_bits_per_byte_before", model), ("general_bits_per_byte", out)):
        loaded = load_model(folder, torch.float32)
        with torch.no_grad():
            nats = float(loaded(input_ids=tokens, labels=tokens).loss) * (tokens.shape[1] - 1)
        assert summary[name] == pytest.approx(nats / 0.6931472 / len(text.encode()), rel=5e-3), name
    forgotten = summary["general_bits_per_byte"] - summary["general_bits_per_byte_before"]
    assert summary["forgotten_bits_per_byte"] == pytest.approx(forgotten) and forgotten != 0


def test_the_shape_of_the_instructions_is_said(tmp_path, model, caplog):
    caplog.set_level("INFO", "leanpipe")
    summary, out = run(tmp_path, model)
    assert summary["shapes"] == "alpaca (10)"
    page = (out / "report" / "mask.md").read_text()
    assert page.startswith(
        "The instructions were read as alpaca (10). Records that were skipped: 1 (no conversation"
    )
    assert summary["conversations"] + summary["skipped"] == 11
    assert "colours.jsonl: alpaca (10)" in caplog.text


def test_what_it_writes_names_no_place(tmp_path, model):
    _, out = run(tmp_path, model)
    for file in out.rglob("*.json"):
        assert str(model) not in file.read_text() and str(tmp_path) not in file.read_text(), file
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"]) and config["r"] == 4


def test_only_the_named_layers_are_changed(tmp_path, model):
    _, out = run(tmp_path, model, target_modules=("q_proj",))
    before, after = (
        load_model(model, torch.bfloat16).state_dict(),
        load_model(out, torch.bfloat16).state_dict(),
    )
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj"}


def test_it_resumes(tmp_path, model):
    class Stop(Recorder):
        def progress(self, done, total, what) -> None:
            if done == 15 * 128:
                raise KeyError("stop")

    config = FinetuneConfig(
        tokens=20 * 128, batch=2, max_length=64, learning_rate=1e-2, checkpoint_every_steps=10
    )
    inputs = FinetuneInputs(model, write_instructions(tmp_path / "colours.jsonl"))
    files = []
    for report in (Recorder(), Stop(), Recorder()):
        out = tmp_path / ("whole" if not files else "cut")
        out.mkdir(exist_ok=True)
        if isinstance(report, Stop):
            with pytest.raises(KeyError):
                finetune.function(config, inputs, tmp_path / "cut", report)
            continue
        finetune.function(config, inputs, out, report)
        files.append((out / "adapter" / "adapter_model.safetensors").read_bytes())
    assert len(files) == 2 and files[0] == files[1]


def test_a_target_that_is_no_layer_is_refused_with_those_that_are(model):
    with pytest.raises(
        UserError, match=r"'query', which is no linear layer.*choose from .*k_proj.*q_proj.*all-linear"
    ):
        check_targets(read_config(model), ("q_proj", "query"), model)
    check_finetune(
        FinetuneConfig(target_modules=("q_proj", "layers.1.mlp.up_proj")), {"model": Expected(model)}
    )


def test_nothing_to_learn_is_refused(tmp_path, model):
    file = tmp_path / "one.json"
    file.write_text('[{"prompt": "a", "completion": "b"}]')
    with pytest.raises(UserError, match="has 1 usable instructions: at least 2 are needed"):
        finetune.function(FinetuneConfig(), FinetuneInputs(model, file), tmp_path, Recorder())


def test_a_target_that_shares_its_weight_is_refused_before_any_work(tmp_path, model):
    """The output layer of this model is its input embedding: adapters for it would be merged into both."""
    named = r"names lm_head, whose weight is also that of model.embed_tokens .*all-linear"
    with pytest.raises(UserError, match=named):
        check_targets(read_config(model), ("q_proj", "lm_head"), model)
    inputs = FinetuneInputs(model, write_instructions(tmp_path / "colours.jsonl"))
    with pytest.raises(UserError, match=named):
        finetune.function(FinetuneConfig(target_modules=("lm_head",)), inputs, tmp_path, Recorder())
    with pytest.raises(UserError, match="'embed_tokens', which is no linear layer"):
        check_targets(read_config(model), ("embed_tokens",), model)


def test_an_untied_output_layer_may_be_trained(tmp_path):
    untied = tiny_model(tmp_path / "untied", tied=False)
    summary, out = run(tmp_path, untied, target_modules=("lm_head",), precision="fp32")
    assert summary["validation_loss"] < summary["initial_validation_loss"]
    before, after = (load_model(path, torch.bfloat16).state_dict() for path in (untied, out))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"lm_head.weight"}


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
def test_a_merge_that_changes_the_predictions_is_noticed(tmp_path, model, kind):
    """Adapters for a tied output layer, made past the check of targets: merging changes the embeddings too."""
    from peft import get_peft_model

    from leanpipe.training.finetune.lora import lora_config, merge, save_adapter

    for targets in (("q_proj",), ("lm_head",)):
        torch.manual_seed(0)
        adapted = get_peft_model(load_model(model, torch.float32), lora_config(4, 8, 0.0, targets, kind))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
        save_adapter(adapted, tmp_path / targets[0])
    merge(model, tmp_path / "q_proj")
    with pytest.raises(UserError, match=r"does not predict what was trained: .* not saved"):
        merge(model, tmp_path / "lm_head")
