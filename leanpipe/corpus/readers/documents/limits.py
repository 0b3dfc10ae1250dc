"""How much of a document is believed."""

from typing import NamedTuple


class Limits(NamedTuple):
    """What may be read of one document (see `ReadConfig`)."""

    document_bytes: int
    expansion: int

    def unfolded(self, packed: int) -> int:
        """Bytes that so many packed ones may unfold to."""
        return packed * self.expansion + self.document_bytes
