"""Faults that were seen in the field, planted in forms of a trained tiny model: each is caught by its name, and nothing else is."""

import json
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.evaluation.parity.bounds import ENGINE_MARGIN, form_of
from leanpipe.evaluation.parity.parity import (
    ParityConfig,
    ParityInputs,
    check_parity,
    compare,
    parity,
)
from leanpipe.evaluation.parity.predictions import Answer, find_answer_faults
from leanpipe.evaluation.parity.probes import probes
from leanpipe.evaluation.parity.served_answers import NoAnswer, Said, ask, find_count_faults
from leanpipe.evaluation.parity.text_faults import read_text_side
from tests.evaluation.parity.plants import PLANTS, Plant, bos_ignored, doubled_bos, other_template
from tests.evaluation.parity.trained import FORMS, PROMPTS, write_form

CONFIG = ParityConfig(prompts=PROMPTS, max_new_tokens=16)


@contextmanager
def no_server(folder: Path):
    """Of a fault in the files nothing is asked: whoever asks here gets no answer, and that is another fault."""
    yield "http://127.0.0.1:1"


def faults(model: Path, folder: Path, serve=no_server) -> list[str]:
    return [fault.name for fault in compare(CONFIG, model, folder, serve).faults]


def planted(plant: Plant, model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    plant.make(target)
    return target


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.called)
def test_a_fault_is_caught_by_its_name(plant, form, trained, forms, tmp_path):
    found = compare(CONFIG, trained, planted(plant, forms[form], tmp_path / "model"), no_server)
    assert found.faults[0].name == plant.caught_as, found.faults
    assert found.summary()["passed"] == 0 and found.summary()["fault"] == found.faults[0].sentence


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_of_another_step_are_caught(form, trained, step_before, tmp_path):
    assert faults(trained, write_form(form, step_before, tmp_path / form)) == ["stale_weights"]


@pytest.mark.parametrize("form", FORMS)
def test_an_engine_that_flips_tokens_is_caught(form, trained, forms, coarse_engine):
    assert faults(trained, forms[form], coarse_engine) == ["flipped_tokens"]


def test_a_clean_form_passes_through_its_server(trained, forms, url):
    found = compare(CONFIG, trained, forms["nf4"], lambda _: nullcontext(url))
    assert found.faults == [] and found.summary()["passed"] == 1
    assert found.divergence is not None and 0 < found.divergence.kl < 0.2
    counted = {one.called: one.served_tokens for one in found.exchanges}
    assert counted == {one.called: one.trained_tokens for one in found.exchanges} and len(counted) > 8


@pytest.mark.parametrize(
    ("plant", "name"),
    [(doubled_bos, "bos_not_added"), (bos_ignored, "tokenizer_differs"), (other_template, "other_template")],
)
def test_a_server_that_reads_other_tokens_than_were_trained_is_caught(plant, name, trained, url, tmp_path):
    """Whatever its files say: here the trained model is the odd one, and the server the clean one."""
    side = read_text_side(planted(Plant("", "", plant), trained, tmp_path / "model"))
    found = [
        fault.name
        for probe in probes(side.tokenizer, PROMPTS)
        for fault in find_count_faults(side, probe, ask(url, probe, 1))
    ]
    assert set(found) == {name}


def test_an_answer_may_part_only_where_the_model_was_unsure():
    known = Answer([5, 6, 7], ["a", "a b", "a b c"], [3.0, 0.1, 3.0], ended=False)
    judge = [list(find_answer_faults(known, Said(text, 5, 3), ENGINE_MARGIN, "it", "a question")) for text in ("a b c", "a x", "a b x")]  # fmt: skip
    assert [[fault.name for fault in found] for found in judge] == [[], [], ["flipped_tokens"]]


def test_an_answer_that_goes_on_after_its_end_is_caught():
    known = Answer([5, 6, 7], ["a", "a b", "a b"], [3.0, 3.0, 3.0], ended=True)
    found = [list(find_answer_faults(known, Said(text, 5, tokens), 0.3, "it", "a question")) for text, tokens in (("a b", 3), ("a b c", 5))]  # fmt: skip
    assert [[fault.name for fault in one] for one in found] == [[], ["end_of_turn"]]


def test_a_server_that_does_not_start_is_a_fault(trained, forms):
    @contextmanager
    def ended(_):
        raise NoAnswer("the server ended with code 1 before it answered")
        yield

    found = compare(CONFIG, trained, forms["nf4"], ended)
    assert [fault.name for fault in found.faults] == ["does_not_answer"]
    assert found.divergence is not None  # what was measured is not lost


def test_the_stage_writes_what_it_found(trained, forms, tmp_path):
    shutil.copytree(forms["int8"], tmp_path / "model")
    doubled_bos(tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    summary = parity.function(CONFIG, ParityInputs(trained, tmp_path / "model"), out, Silent())
    assert (summary["passed"], summary["fault_name"]) == (0, "doubled_bos")
    assert json.loads((out / "parity.json").read_text())["faults"][0]["sentence"] == summary["fault"]
    assert summary["fault"].replace("<", "&lt;") in (out / "report" / "parity.md").read_text()
    assert (out / "report" / "parity.png").exists()


def test_what_is_no_known_form_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        form_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="gptq, of which no bounds of parity are known"):
        form_of(tmp_path)


@pytest.mark.parametrize("settings", [{"prompts": ("word " * 600,)}, {"max_new_tokens": 600}])
def test_prompts_and_answers_longer_than_the_model_reads_are_refused(settings, trained):
    with pytest.raises(UserError, match=r"parity\.max_new_tokens with the longest of parity\.prompts"):
        check_parity(ParityConfig(**settings), {"model": Expected(trained)})


def test_prompts_and_answers_are_those_that_are_asked_for(trained, forms, url):
    """One prompt instead of three, and at most three tokens of answer."""
    config = ParityConfig(prompts=("Why?",), max_new_tokens=3)
    found = compare(config, trained, forms["nf4"], lambda _: nullcontext(url))
    answered = [one for one in found.exchanges if one.trained_answer is not None]
    assert len(answered) == 1 and len(found.exchanges) < 12
    tokenizer = read_text_side(trained).tokenizer
    assert len(tokenizer(answered[0].served_answer, add_special_tokens=False)["input_ids"]) <= 3
