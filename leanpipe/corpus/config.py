"""The settings of stage `clean`, put together from those of its parts."""

from collections.abc import Iterable
from typing import Self

from pydantic import Field, field_validator

from leanpipe.core.config import StageConfig
from leanpipe.corpus.decontam.decontaminate import DecontaminateConfig
from leanpipe.corpus.dedup.duplicates import DuplicatesConfig
from leanpipe.corpus.extract.main_text import ExtractConfig
from leanpipe.corpus.filters import C4Config, FineWebConfig, QualityConfig, RepetitionConfig
from leanpipe.corpus.filters.language import known_languages
from leanpipe.corpus.passes.execution import ExecutionConfig
from leanpipe.corpus.pii import RedactConfig
from leanpipe.corpus.readers import ReadConfig
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.split import SplitConfig


class CleanConfig(StageConfig):
    """What is read of a corpus, and what of it is good enough to learn from."""

    read: ReadConfig = ReadConfig()
    """What of the files is text, and how much of one is too much."""
    extract: ExtractConfig = ExtractConfig()
    """How the main text of web pages is found."""
    languages: tuple[str, ...] = Field((), max_length=100)
    """Languages that are kept, as ISO 639 codes such as en or de; none named: all are."""
    language_sample: int = Field(240, ge=60, le=1_000_000)
    """Characters of a document by which its language is told."""
    quality: QualityConfig = QualityConfig()
    """Bounds on the words and lines of a document."""
    repetition: RepetitionConfig = RepetitionConfig()
    """Bounds on what a document repeats within itself."""
    c4: C4Config = C4Config()
    """The rules by which C4 was made of web pages."""
    fineweb: FineWebConfig = FineWebConfig()
    """The rules that FineWeb adds to them."""
    redact: RedactConfig = RedactConfig()
    """Which personal data are replaced."""
    duplicates: DuplicatesConfig = DuplicatesConfig()
    """What counts as a repetition of something earlier."""
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """How much of an evaluation set a document may hold."""
    split: SplitConfig = SplitConfig()
    """Which share of the documents is held out."""
    execution: ExecutionConfig = ExecutionConfig()
    """The machines that work on the corpus, and how it is divided among them."""

    def of_corpus(self, files: Iterable[SourceFile]) -> Self:
        """Return the settings for a corpus of these files: of a small one more is held out for the test."""
        split = self.split.of_corpus(files, lines=self.read.text_files == "lines")
        return self.model_copy(update={"split": split})

    @field_validator("languages")
    @classmethod
    def _languages_exist(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if languages and (unknown := set(languages) - known_languages()):
            raise ValueError(
                f"unknown language codes: {', '.join(sorted(unknown))} (known: en, de, fr, zh, …)"
            )
        return languages
