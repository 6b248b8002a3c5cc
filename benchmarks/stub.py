"""A collection that answers at once, so that only the time of the storage is measured.

Documents are encoded to BSON once, when they are stored. So what is returned has the types that the
driver would return, but not its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions
from pymongo.write_concern import WriteConcern

Document = dict[str, Any]


class StubCollection:
    """The methods of a collection that a load and a save call; updates change nothing."""

    write_concern = WriteConcern(w=1)

    def __init__(self) -> None:
        """Start empty."""
        self._documents: dict[bytes, Document] = {}
        self._codec: CodecOptions[Document] = DEFAULT_CODEC_OPTIONS

    def with_options(self, *, codec_options: CodecOptions[Document], **_: object) -> Self:
        """Remember how documents are to be decoded."""
        self._codec = codec_options
        return self

    async def insert_one(self, document: Document) -> None:
        """Store a document."""
        self._documents[document["_id"]] = bson.decode(bson.encode(document), self._codec)

    async def find_one(self, query: Document) -> Document | None:
        """Return one document by its id."""
        return self._documents.get(query["_id"])

    def find(self, query: Document, *_: object, **__: object) -> _Found:
        """Return documents by their ids."""
        return _Found([self._documents[one] for one in query["_id"]["$in"]])

    async def update_one(self, _query: Document, _change: Document) -> SimpleNamespace:
        """Answer that the document was found."""
        return SimpleNamespace(matched_count=1)

    async def bulk_write(
        self, operations: Sequence[object], *, ordered: bool = True
    ) -> SimpleNamespace:
        """Answer that every document was found; the storage sends updates here, and no inserts."""
        assert not ordered
        return SimpleNamespace(matched_count=len(operations), deleted_count=0, inserted_count=0)


class _Found:
    def __init__(self, documents: list[Document]) -> None:
        self._documents = documents

    async def to_list(self, _length: None) -> list[Document]:
        return self._documents
