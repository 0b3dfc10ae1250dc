"""What is known of a run's inputs by what a person wrote, before anything is fetched."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.assets.tiny import SeedConfig, seed_config
from leanpipe.core.allowed_paths import local_path
from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.core.estimate import Expected
from leanpipe.core.files import expanded
from leanpipe.models.count import read_config
from leanpipe.planning.steps import RunInputs

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def expected_inputs(settings: Any) -> RunInputs:
    """What a flow with these settings would start from. Raises UserError for a model of which nothing can be known."""
    models = [getattr(settings, name) for name in ("teacher", "model") if hasattr(settings, name)]
    models += getattr(settings, "models", ())
    corpus = Expected(facts={"bytes": referred_bytes(getattr(settings, "corpus", ()))})
    return RunInputs(
        corpus=(corpus,),
        models=tuple(Expected(facts={"model": describe_model(one)}, name=one) for one in models),
        instructions=Expected() if hasattr(settings, "instructions") else None,
        prompt_set=Expected(expanded(prompts))
        if (prompts := getattr(settings, "prompt_set", None))
        else None,
        tasks=tuple(Expected(_file(one)) for one in getattr(settings, "tasks", ())),
    )


def referred_bytes(references: Iterable[str]) -> int:
    """Bytes of the local files and folders among `references`; a corpus with a name, or at a URL, counts as nothing."""
    paths = [path for one in references if (path := local_path(one)) and path.exists()]
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file())


def describe_model(reference: str) -> "PretrainedConfig":
    """Read the config of a folder, a .gguf file, a hub id or a named model; of a hub only config.json is read. Raises UserError."""
    from transformers import AutoConfig

    if reference in ("tiny", "smollm2-135m-instruct"):
        return seed_config(SeedConfig()) if reference == "tiny" else _smollm2()
    path = expanded(reference)
    if (path / "config.json").is_file():
        return read_config(path)
    if path.is_file():
        with refused_if_unreadable(f"the model {path}", "give a folder with a config.json, or a .gguf file"):
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    try:
        return AutoConfig.from_pretrained(reference, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model {reference}: it is no folder with a config.json, no .gguf file, none of smollm2-135m-instruct, tiny, "
            "and no hub model that can be reached from here; check the spelling, or give a local path"
        ) from error


def import_for_plans() -> None:
    """Import what a plan needs of transformers, which takes seconds."""
    from leanpipe.training.trainer.memory import size_of

    size_of(describe_model("tiny"))


def _file(reference: str) -> Path | None:
    """The file that is meant, if it is one of a person's: what has a name is made when it is asked for."""
    path = expanded(reference)
    return path if path.is_file() else None


def _smollm2() -> "PretrainedConfig":
    """Allal et al. 2025, arXiv 2502.02737: the sizes in config.json of HuggingFaceTB/SmolLM2-135M-Instruct."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8_192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
