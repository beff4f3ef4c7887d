"""The versions of objects as they are compiled for server and clients."""

from fastmgr.memory.atomics cimport fm_load, fm_store, uint64_t
from fastmgr.memory.arena cimport Version, Versions
from fastmgr.memory.versions cimport stands, version_at


cdef class Words:
    """One server's words, and versions that lie in them, by number."""

    cdef Versions home
    cdef list versions

    def __init__(self):
        self.home = Versions()
        self.versions = []

    cdef uint64_t *word(self, size_t offset) noexcept:
        return <uint64_t *>(self.home.segment.at + offset)

    def new(self):
        """The number of another version, and the offset of its word."""
        cdef Version version = self.home.new()
        self.versions.append(version)
        return len(self.versions) - 1, version.offset

    def begin(self, number):
        (<Version>self.versions[number]).begin()

    def end(self, number):
        (<Version>self.versions[number]).end()

    def retire(self, number):
        (<Version>self.versions[number]).retire()

    def drop(self, number):
        self.versions[number] = None

    def now(self, size_t offset):
        return version_at(self.word(offset))

    def stands(self, size_t offset, uint64_t version):
        return stands(self.word(offset), version)

    def held(self, size_t offset):
        return fm_load(self.word(offset))

    def put(self, size_t offset, uint64_t value):
        fm_store(self.word(offset), value)
