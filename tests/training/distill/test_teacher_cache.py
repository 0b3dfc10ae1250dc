"""The stage that asks a teacher once, on a tiny real one."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, digest_files, external
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.processes.run_stage import run_stage
from leanpipe.tokens.blocks import Blocks
from leanpipe.training.distill.distillation_objectives import CachedDistillation, Distillation
from leanpipe.training.distill.teacher_cache import (
    CacheConfig,
    CacheInputs,
    CacheSettings,
    cache_config,
    cache_teacher,
    check_same_tokens,
    find_cache,
    write_teacher_logprobs,
)
from leanpipe.training.distill.teacher_logprobs import (
    RECORDS,
    LogprobFormat,
    TeacherLogprobs,
    WithTeacherLogprobs,
)
from leanpipe.training.losses.divergences import DistillationLoss
from leanpipe.training.trainer.data import Subset, collate, scored_tokens
from tests.support.tiny_models import tiny_llama, tiny_model
from tests.training.blocks import Recorder, write_blocks


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_model(tmp_path_factory.mktemp("teacher"), layers=2)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return write_blocks(tmp_path_factory.mktemp("blocks"))


def cached(out, teacher, blocks, count=6, **settings):
    out.mkdir(parents=True)
    config = CacheConfig(**{"blocks": count, "top_k": 8, "tail_samples": 4, **settings})
    return cache_teacher.function(config, CacheInputs(teacher, blocks), out, Recorder())


def test_what_it_writes_and_says(tmp_path, teacher, blocks):
    summary = cached(tmp_path / "out", teacher, blocks)
    teacher_logprobs = TeacherLogprobs(tmp_path / "out")
    assert len(teacher_logprobs) == 6 == summary["blocks"]
    assert teacher_logprobs[5].shape == (31, 12 * 3 + 4)
    chosen = Subset(Blocks(blocks, "train"), 6 * 32)
    assert summary["tokens"] == scored_tokens(chosen)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.npy"))
    assert summary["bytes"] == size and summary["bytes_per_token"] == size / summary["tokens"]
    assert 0 < summary["mass_kept"] < 1


def test_records_are_what_the_teacher_predicts_of_the_next_token_in_its_document(tmp_path, teacher, blocks):
    cached(tmp_path / "out", teacher, blocks)
    teacher_logprobs, model = TeacherLogprobs(tmp_path / "out"), load_model(teacher, torch.float32)
    block = Subset(Blocks(blocks, "train"), 6 * 32)[3]
    with torch.no_grad():
        logits = model(
            input_ids=block["input_ids"][None].to(model.device),
            position_ids=block["position_ids"][None].to(model.device),
            use_cache=False,
        ).logits.cpu()
    ids, log_p, weights, _ = teacher_logprobs.format.decode(teacher_logprobs[3], 1)
    exact = torch.log_softmax(logits[0, :-1], -1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(31))
    torch.testing.assert_close(log_p, exact.gather(1, ids), rtol=0, atol=0.1)  # bfloat16, one byte
    assert (log_p[:, 0] >= exact.amax(-1) - 0.1).all()


def test_with_the_whole_vocabulary_kept_a_student_learns_as_from_the_teacher_itself(
    tmp_path, teacher, blocks
):
    cached(tmp_path / "out", teacher, blocks, top_k=512, tail_samples=0)
    taught = WithTeacherLogprobs(Subset(Blocks(blocks, "train"), 6 * 32), TeacherLogprobs(tmp_path / "out"))
    batch, model = collate([taught[index] for index in range(6)]), load_model(teacher, torch.float32).cpu()
    for how in (
        DistillationLoss(kl_weight=0.6),
        DistillationLoss(divergence="reverse_kl"),
        DistillationLoss(divergence="jensen_shannon", beta=0.3, temperature=2.0, kl_weight=0.9),
    ):
        found = []
        for objective in (
            Distillation(model, how, 512),
            CachedDistillation(TeacherLogprobs(tmp_path / "out").format, how),
        ):
            student = tiny_llama(seed=5)
            sums = objective(student, batch)
            sums["loss"].backward()
            gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
            found.append((torch.stack(list(sums.values())).detach(), gradient))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=0.02, atol=0.01)
        assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.999


def test_another_number_of_blocks_begins_with_the_same_ones(tmp_path, teacher, blocks):
    for count in (3, 6):
        cached(tmp_path / str(count), teacher, blocks, count=count)
    few, many = TeacherLogprobs(tmp_path / "3"), TeacherLogprobs(tmp_path / "6")
    assert all(torch.equal(few[index], many[index]) for index in range(3))


def test_every_student_of_one_length_asks_for_the_same(blocks):
    whole = len(Blocks(blocks, "train"))
    settings = CacheSettings()
    assert (
        cache_config(settings, Expected(blocks), 6 * 32).blocks
        == cache_config(settings, Expected(blocks), 5 * 32 + 1).blocks
        == 6
    )
    assert cache_config(settings, Expected(blocks), 10**9).blocks == whole  # many times over


_KILLED = """
import os, signal, sys
from pathlib import Path
from leanpipe.tokens.blocks import Blocks
from leanpipe.training.distill.teacher_cache import CacheInputs, write_teacher_logprobs
from leanpipe.training.trainer.data import Subset
from leanpipe.training.distill.teacher_logprobs import LogprobFormat
from tests.training.blocks import Recorder

class Killed(Recorder):
    def progress(self, done, total, what):
        if done > 5 * 32:
            os.kill(os.getpid(), signal.SIGKILL)

teacher, blocks, out = map(Path, sys.argv[1:])
format = LogprobFormat(top_k=8, tail_samples=4, vocabulary=512, blocks=7, block_length=32)
chosen = Subset(Blocks(blocks, "train"), 7 * 32)
write_teacher_logprobs(CacheInputs(teacher, blocks), chosen, format, out, Killed(), file_tokens=64)
"""


def test_a_killed_run_goes_on_at_the_file_where_it_was(tmp_path, teacher, blocks):
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.mkdir()
    whole.mkdir()
    command = [sys.executable, "-c", _KILLED, str(teacher), str(blocks), str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in sorted(out.glob("*.npy"))] == ["00000.npy", "00001.npy"]
    format = LogprobFormat(top_k=8, tail_samples=4, vocabulary=512, blocks=7, block_length=32)
    chosen = Subset(Blocks(blocks, "train"), 7 * 32)
    asked = {}
    for folder in (out, whole):
        inputs = CacheInputs(teacher, blocks)
        asked[folder] = write_teacher_logprobs(inputs, chosen, format, folder, Silent(), file_tokens=64)
    assert (asked[out], asked[whole]) == (3, 7)
    assert digest_files(out) == digest_files(whole)


def test_the_speed_of_a_resumed_cache_is_that_of_all_that_was_asked(tmp_path, teacher, blocks):
    """Killed when it had asked about everything, it asks nothing again, and still says how fast that was."""
    config, inputs = CacheConfig(blocks=3, top_k=4), CacheInputs(teacher, blocks)

    class Killed(Silent):
        def progress(self, done, total, what) -> None:
            if (tmp_path / "00000.npy").exists():
                raise KeyError("killed")

    with pytest.raises(KeyError):
        cache_teacher.function(config, inputs, tmp_path, Killed())
    summary = cache_teacher.function(config, inputs, tmp_path, Silent())
    assert summary["tokens_per_second"] > 0


def test_what_was_asked_for_a_shorter_training_is_not_asked_again(tmp_path, teacher, blocks):
    chosen, asked = Blocks(blocks, "train"), []
    for name, count, base in (("first", 5, None), ("second", 8, tmp_path / "first"), ("alone", 8, None)):
        (tmp_path / name).mkdir()
        format = LogprobFormat(top_k=8, tail_samples=4, vocabulary=512, blocks=count, block_length=32)
        inputs = CacheInputs(teacher, blocks, base)
        asked.append(
            write_teacher_logprobs(
                inputs, Subset(chosen, count * 32), format, tmp_path / name, Silent(), file_tokens=64
            )
        )
    assert asked == [5, 4, 8]  # two files of two blocks were there
    assert digest_files(tmp_path / "second") == digest_files(tmp_path / "alone")


def test_the_store_knows_what_is_there(tmp_path, teacher, blocks):
    store, inputs = Store(tmp_path), {"teacher": external("t", teacher), "blocks": external("b", blocks)}
    other = external("o", tiny_model(tmp_path / "other", seed=1))
    config = CacheConfig(blocks=3, top_k=4)
    assert find_cache(cache_teacher, store, config, inputs) is None
    made = run_stage(cache_teacher, config, inputs, store, Silent())
    more = CacheConfig(blocks=9, top_k=4, max_gigabytes=3)
    assert find_cache(cache_teacher, store, more, inputs).path == made.path
    for other_way in ({"top_k": 5}, {"top_k": 4, "tail_samples": 3}):
        assert find_cache(cache_teacher, store, CacheConfig(blocks=9, **other_way), inputs) is None
    assert find_cache(cache_teacher, store, more, inputs | {"teacher": other}) is None


def test_a_cache_that_is_too_large_is_refused_before_the_teacher_is_loaded(tmp_path, blocks, teacher):
    (tmp_path / "tokenizer-only").mkdir()
    load_tokenizer(teacher).save_pretrained(tmp_path / "tokenizer-only")  # no weights
    with pytest.raises(
        UserError,
        match=r"would take 7.44e-06 GB \(192 tokens of 40 bytes\), but cache.max_gigabytes is 1e-06",
    ):
        cached(tmp_path / "out", tmp_path / "tokenizer-only", blocks, max_gigabytes=1e-6)
    assert not list((tmp_path / "out").iterdir())


def test_tokenizers_are_compared_by_content(tmp_path, teacher):
    check_same_tokens(teacher, write_blocks(tmp_path / "same"))
    with pytest.raises(UserError, match=r"\d+ tokens differ, '.+' is one"):
        check_same_tokens(teacher, write_blocks(tmp_path / "other", vocabulary=400))
    knows_more = load_tokenizer(teacher)
    knows_more.add_tokens(["another"])
    knows_more.save_pretrained(tmp_path / "more")
    check_same_tokens(tmp_path / "more", tmp_path / "same")


def test_a_padded_teacher_says_the_same(tmp_path, teacher, blocks):
    model = load_model(teacher, torch.float32)
    model.resize_token_embeddings(576)
    with torch.no_grad():
        model.get_output_embeddings().weight[512:] = 3.0
    save_model(model, load_tokenizer(teacher), tmp_path / "padded", torch.float32)
    for name, folder in (("plain", teacher), ("padded", tmp_path / "padded")):
        cached(tmp_path / f"of-{name}", folder, blocks)
    same = [np.load(tmp_path / f"of-{name}" / "00000.npy") for name in ("plain", "padded")]
    assert np.array_equal(*same)


def test_fewer_predictions_than_blocks_are_refused(tmp_path, teacher, blocks):
    cached(tmp_path / "out", teacher, blocks, count=3)
    with pytest.raises(UserError, match="of 3 blocks, but 4 are to be learnt"):
        WithTeacherLogprobs(Subset(Blocks(blocks, "train"), 4 * 32), TeacherLogprobs(tmp_path / "out"))
    with pytest.raises(UserError, match="holds no teacher's predictions"):
        TeacherLogprobs(blocks)


def test_items_hold_records_beside_tokens(tmp_path, teacher, blocks):
    cached(tmp_path / "out", teacher, blocks)
    batch = collate(
        [WithTeacherLogprobs(Subset(Blocks(blocks, "train"), 64), TeacherLogprobs(tmp_path / "out"))[0]]
    )
    assert batch[RECORDS].shape == (1, 31, 40)
