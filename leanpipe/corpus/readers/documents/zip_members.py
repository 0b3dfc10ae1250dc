"""Documents that are ZIP archives of XML, opened within bounds."""

import io
import zipfile
import zlib
from xml.etree import ElementTree
from xml.parsers import expat

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.unpack import BadFile

_OLD_OFFICE = bytes.fromhex("d0cf11e0a1b11ae1")  # OLE2: Word up to 2003, and what newer ones encrypt
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_ENCRYPTED = 1  # bit of a member's flags


class ZipMembers:
    """The members of an archive. What they unfold to is counted: a ZIP bomb raises BadFile before it is unfolded."""

    def __init__(self, data: bytes, name: str, limits: Limits):
        self._name, self._left = f"damaged {name}", limits.unfolded(len(data))
        if data.startswith(_OLD_OFFICE):
            if _ENCRYPTED_PACKAGE in data:
                raise BadFile("encrypted")
            raise BadFile(self._name, "it is a file of an old Office: save it anew")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise BadFile(self._name, error) from error

    def names(self) -> list[str]:
        """Names of all members."""
        return self._zip.namelist()

    def count(self, name: str) -> None:
        """Count a member as read. Raises BadFile if all together unfold to too much, or it is encrypted."""
        info = self._zip.getinfo(name)
        if info.flag_bits & _ENCRYPTED:
            raise BadFile("encrypted")
        self._left -= info.file_size  # no more than that is read, whatever follows
        if self._left < 0:
            raise BadFile("expands more than read.max_expansion times", f"{name} has {info.file_size} bytes")

    def read(self, name: str) -> bytes:
        """Read a member. Raises BadFile if it is not there, or cannot be unpacked."""
        try:
            self.count(name)
            return self._zip.read(name)
        except KeyError:
            raise BadFile(self._name, f"it has no {name}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise BadFile(self._name, error) from error

    def read_xml(self, name: str) -> ElementTree.Element:
        """Read and parse a member. Raises BadFile if it is no XML, or declares entities."""
        data = self.read(name)
        try:
            forbid_entities(data)
            return ElementTree.fromstring(data)
        except (ElementTree.ParseError, expat.ExpatError, ValueError) as error:
            raise BadFile(self._name, f"{name}: {error}") from error


class _RootReached(Exception):
    """Raised where the declarations of an XML file end."""


def forbid_entities(data: bytes) -> None:
    """Raise ValueError if XML declares entities, as no office writes and as bombs do, whatever its encoding."""

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    def stop(*_: object) -> None:
        raise _RootReached

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = stop
    try:
        parser.Parse(data, True)
    except _RootReached:
        return
