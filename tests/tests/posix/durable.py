"""Writes files in sys.argv[1], each through one kind of handle and made durable in one way, and keeps all of them open.

Prints the name and size of each file whose way returned, then "done", and waits for the end of its input. A file
named "KIND,WAY" holds its name, again and again. "control" is a file for which nothing was asked.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
IO_SETUP, IO_GETEVENTS, IO_SUBMIT = 206, 208, 209
IO_URING_SETUP, IO_URING_ENTER = 425, 426
RWF_DSYNC, RWF_SYNC = 2, 4
keep = []


def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


class Aio:
    """io_submit(2), one request at a time."""

    PWRITE, FSYNC, FDSYNC = 1, 2, 3

    def __init__(self):
        self.context = ctypes.c_ulong(0)
        call(IO_SETUP, ctypes.c_uint(4), ctypes.byref(self.context))

    def run(self, file, opcode, data=b"", offset=0, flags=0):
        buffer = ctypes.create_string_buffer(data, max(len(data), 1))
        fields = (0, 0, flags, opcode, 0, file, ctypes.addressof(buffer) if data else 0, len(data), offset, 0, 0, 0)
        iocb = ctypes.create_string_buffer(struct.pack("<QIiHhIQQqQII", *fields))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(iocb))
        call(IO_SUBMIT, self.context, ctypes.c_long(1), pointers)
        events = ctypes.create_string_buffer(32)
        call(IO_GETEVENTS, self.context, ctypes.c_long(1), ctypes.c_long(1), events, None)
        result = struct.unpack("<QQqq", events.raw)[2]
        if result != len(data):
            raise OSError(-result, f"aio {opcode}")


class Ring:
    """io_uring(7), one request at a time."""

    FSYNC, WRITE, DATASYNC = 3, 23, 1

    def __init__(self):
        parameters = ctypes.create_string_buffer(120)
        self.ring = call(IO_URING_SETUP, ctypes.c_uint(4), parameters)
        entries, completions = struct.unpack_from("<II", parameters.raw)
        self.sq = struct.unpack_from("<8I", parameters.raw, 40)
        self.cq = struct.unpack_from("<8I", parameters.raw, 80)
        self.sq_map = mmap.mmap(self.ring, self.sq[6] + entries * 4, offset=0)
        self.cq_map = mmap.mmap(self.ring, self.cq[5] + completions * 16, offset=0x8000000)
        self.requests = mmap.mmap(self.ring, entries * 64, offset=0x10000000)

    def run(self, file, opcode, data=b"", offset=0, flags=0):
        buffer = ctypes.create_string_buffer(data, max(len(data), 1))
        address = ctypes.addressof(buffer) if data else 0
        request = struct.pack("<BBHiQQII", opcode, 0, 0, file, offset, address, len(data), flags)
        head, tail, mask = self.sq[0], self.sq[1], self.sq[2]
        (at,) = struct.unpack_from("<I", self.sq_map, tail)
        slot = at & struct.unpack_from("<I", self.sq_map, mask)[0]
        self.requests[slot * 64 : slot * 64 + 64] = request.ljust(64, b"\0")
        struct.pack_into("<I", self.sq_map, self.sq[6] + 4 * slot, slot)
        struct.pack_into("<I", self.sq_map, tail, at + 1)
        call(IO_URING_ENTER, ctypes.c_uint(self.ring), ctypes.c_uint(1), ctypes.c_uint(1), ctypes.c_uint(1), None, 0)
        (at,) = struct.unpack_from("<I", self.cq_map, self.cq[0])
        slot = at & struct.unpack_from("<I", self.cq_map, self.cq[2])[0]
        _, result, _ = struct.unpack_from("<QiI", self.cq_map, self.cq[5] + 16 * slot)
        struct.pack_into("<I", self.cq_map, self.cq[0], at + 1)
        if result != len(data):
            raise OSError(-result, f"io_uring {opcode}")


KINDS = {
    "buffered": (0, 0),
    "append": (os.O_APPEND, 0),
    "direct": (os.O_DIRECT, 0),
    "direct append": (os.O_DIRECT | os.O_APPEND, 0),
    "set to append": (0, os.O_APPEND),
    "set to direct": (0, os.O_DIRECT),
}

WAYS = ["O_SYNC", "O_DSYNC", "RWF_SYNC", "RWF_DSYNC", "fsync", "fdatasync", "fsync of another", "aio fsync", "aio fdsync"]
WAYS += ["aio RWF_DSYNC", "io_uring fsync", "io_uring fdatasync", "io_uring RWF_DSYNC"]


def contents(name):
    return (name + " ").encode() * 20


def opened(directory, name, flags, later=0):
    path = os.path.join(directory, name)
    file = os.open(path, os.O_CREAT | os.O_RDWR | flags, 0o644)
    if later:
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | later)
    keep.append(file)
    return path, file


def write(way, path, file, data, offset, aio, ring):
    if way.endswith("RWF_DSYNC") or way == "RWF_SYNC":
        flags = RWF_SYNC if way == "RWF_SYNC" else RWF_DSYNC
        if way.startswith("aio"):
            return aio.run(file, Aio.PWRITE, data, offset, flags)
        if way.startswith("io_uring"):
            return ring.run(file, Ring.WRITE, data, offset, flags)
        return os.pwritev(file, [data], offset, flags)
    os.pwrite(file, data, offset)
    if way == "fsync":
        os.fsync(file)
    elif way == "fdatasync":
        os.fdatasync(file)
    elif way == "fsync of another":
        keep.append(os.open(path, os.O_RDONLY))
        os.fsync(keep[-1])
    elif way == "aio fsync":
        aio.run(file, Aio.FSYNC)
    elif way == "aio fdsync":
        aio.run(file, Aio.FDSYNC)
    elif way == "io_uring fsync":
        ring.run(file, Ring.FSYNC)
    elif way == "io_uring fdatasync":
        ring.run(file, Ring.FSYNC, flags=Ring.DATASYNC)


def write_mapped(directory, name, flags):
    data = contents(name)
    _, file = opened(directory, name, flags)
    os.ftruncate(file, len(data))
    mapped = mmap.mmap(file, len(data))
    mapped[:] = data
    mapped.flush()
    keep.append(mapped)
    print(name, flush=True)


def main(directory):
    opened(directory, "control", 0)
    os.write(keep[-1], b"not asked for")
    aio = Aio()
    try:
        ring = Ring()
    except OSError as refused:
        print("no io_uring:", refused, file=sys.stderr)
        ring = None
    for kind, (flags, later) in KINDS.items():
        for way in WAYS:
            if ring is None and way.startswith("io_uring"):
                continue
            name = f"{kind},{way}"
            at_open = {"O_SYNC": os.O_SYNC, "O_DSYNC": os.O_DSYNC}.get(way, 0)
            path, file = opened(directory, name, flags | at_open, later)
            data = contents(name)
            write(way, path, file, data[:50], 0, aio, ring)
            write(way, path, file, data[50:], 50, aio, ring)
            print(name, flush=True)
    write_mapped(directory, "mapped,msync", 0)
    write_mapped(directory, "mapped direct,msync", os.O_DIRECT)
    print("done", flush=True)
    sys.stdin.readline()


main(sys.argv[1])
