from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from leanpipe.assets import samples
from leanpipe.assets.packages import Package, fetch
from leanpipe.assets.resolve import (
    check_own_corpora,
    fetch_ahead,
    resolve_corpus,
    resolve_instructions,
    resolve_model,
)
from leanpipe.assets.samples import python_docstrings, python_topics
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.training.finetune.instructions import read_instructions

# A small package that carries a text file, pinned as the real ones are.
WHEEL = Package(
    "six==1.17.0",
    {"six-1.17.0.dist-info/LICENSE": "4375ef71cf45ac9f4bb03e2ee5eb7bcb8b7e0f8e3a0d0b1e0a1b3b4f5b4c1e55"},
)


def no_run(*arguments):
    raise AssertionError("no stage is needed here")


def test_python_s_own_help_is_a_corpus_on_every_machine(tmp_path: Path):
    corpus = python_topics(tmp_path)
    texts = [path.read_text() for path in corpus.glob("*.txt")]
    assert len(texts) > 50 and sum(map(len, texts)) > 300_000
    assert python_topics(tmp_path) == corpus


def test_several_runs_that_want_a_corpus_at_once_get_it_whole(tmp_path: Path):
    """It was made under one name by all of them, and whoever came second met files that were gone."""
    (tmp_path / "python-topics.part").mkdir()
    (tmp_path / "python-topics.part" / "half.txt").write_text("of a process that was killed")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(python_topics, [tmp_path] * 6))
    names = {path.name for path in found[0].iterdir()}
    assert len(set(found)) == 1 and len(names) > 50 and "half.txt" not in names


def test_python_s_docstrings_are_instructions(tmp_path: Path):
    conversations = read_instructions(python_docstrings(tmp_path)).conversations
    assert len(conversations) > 500
    assert all(one.messages[0]["content"].startswith("What does ") for one in conversations)


def test_a_file_that_is_not_the_pinned_one_is_refused_and_removed(tmp_path: Path):
    with pytest.raises(UserError, match=r"LICENSE from six==1\.17\.0 is not the file that was pinned"):
        fetch(WHEEL, tmp_path)
    assert not (tmp_path / "LICENSE").exists()


def test_a_package_that_cannot_be_had_is_one_sentence(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"six==0\.0\.0\.1 could not be downloaded with pip \(.+\): check the package index"
    ):
        fetch(Package("six==0.0.0.1", {"a": "b"}), tmp_path)


def test_text_that_must_be_fetched_comes_beside_what_else_is_done(tmp_path: Path, monkeypatch):
    """Of a small package in the place of the sample's, which has a file of another name."""
    licence = "six-1.17.0.dist-info/LICENSE"
    digest = "4375ba20e2b9c6c4e7cad2940a628fd90e95cc3d50ee92aae755715d8ba1fbd0"
    monkeypatch.setattr(samples, "_LLAMAFACTORY", Package("six==1.17.0", {licence: digest}))
    home = Home(tmp_path)
    assert not fetch_ahead((str(tmp_path), "python-docstrings", None), home)  # nothing of it is a sample
    assert not home.assets.exists()
    assert fetch_ahead(("sample", None), home)
    # Whoever wants it waits for it, and fetches it himself only if that failed.
    assert samples.fetch_text(home.assets)["LICENSE"].read_text().startswith("Copyright")
    assert samples.has_text(home.assets) and not fetch_ahead(("sample",), home)


def test_a_mistake_in_a_corpus_of_one_s_own_need_not_wait_for_samples(tmp_path: Path):
    check_own_corpora(("sample", "python-topics"), Home(tmp_path))
    with pytest.raises(UserError, match="corpus: /nowhere does not exist"):
        check_own_corpora(("sample", "/nowhere"), Home(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"empty is no model: give a folder with a config\.json, or a \.gguf file"
    ):
        resolve_model(str(tmp_path / "empty"), Home(tmp_path), no_run)
    with pytest.raises(UserError, match=r"model no/such: it is no folder, no \.gguf file, none of .*tiny"):
        resolve_model("no/such", Home(tmp_path), no_run)


def test_a_corpus_is_known_by_its_content(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("the same words")
    one, other = resolve_corpus((str(tmp_path / "a"), str(tmp_path / "b")), Home(tmp_path))
    assert one.digest == other.digest
    with pytest.raises(UserError, match="instructions: /nowhere does not exist"):
        resolve_instructions("/nowhere", Home(tmp_path))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "onnx/model.safetensors"])
def test_a_model_of_the_hub_without_safetensors_is_refused_before_anything_is_made_of_it(
    tmp_path, monkeypatch, weights
):
    """As it lies in the hub's own cache: of what was fetched there, and of what cannot be."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--me--mine" / "snapshots" / ("0" * 40)
    (tmp_path / "models--me--mine" / "refs").mkdir(parents=True)
    (tmp_path / "models--me--mine" / "refs" / "main").write_text(snapshot.name)
    for name in ("config.json", weights, "model.safetensors"):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text("{}")
    assert resolve_model("me/mine", Home(tmp_path), no_run).path == snapshot
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"me/mine: the hub has no safetensors of it, .* give its folder"):
        resolve_model("me/mine", Home(tmp_path), no_run)
