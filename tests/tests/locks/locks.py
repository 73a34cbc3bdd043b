# A process that locks one file as it is told, a line for each call, and answers each with a line: "ok", what it found, or the
# name of the error. With "count KIND ROUNDS" it counts in the file, under the lock, and ends.
#
#   python3 locks.py FILE [count KIND ROUNDS]

import errno
import fcntl
import os
import signal
import struct
import sys

KINDS = {"shared": fcntl.F_RDLCK, "exclusive": fcntl.F_WRLCK, "unlock": fcntl.F_UNLCK}
FLOCKS = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX, "unlock": fcntl.LOCK_UN}
# Of a process and of an open file: get, set, set and wait. Python has no names for the latter.
FCNTL = {"fcntl": (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW), "ofd": (36, 37, 38)}
STRUCT_FLOCK = "@hhqqi4x"


class Alarm(Exception):
    pass


def ring(*_):
    raise Alarm


class Locker:
    def __init__(self, path):
        self.path = path
        self.open()

    def open(self):
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT)

    def close(self):
        os.close(self.file)

    # Opens the file once more and closes that: the locks of the process end, those of the open file do not.
    def touch(self):
        os.close(os.open(self.path, os.O_RDONLY))

    def set(self, api, kind, start, length, waits):
        if api == "flock":
            fcntl.flock(self.file, FLOCKS[kind] | (0 if waits else fcntl.LOCK_NB))
        else:
            lock = struct.pack(STRUCT_FLOCK, KINDS[kind], os.SEEK_SET, start, length, 0)
            fcntl.fcntl(self.file, FCNTL[api][2 if waits else 1], lock)

    def lock(self, api, kind, start="0", length="0"):
        self.set(api, kind, int(start), int(length), False)

    def wait(self, api, kind, start="0", length="0"):
        self.set(api, kind, int(start), int(length), True)

    def get(self, api, kind, start="0", length="0"):
        lock = struct.pack(STRUCT_FLOCK, KINDS[kind], os.SEEK_SET, int(start), int(length), 0)
        kind, _, start, length, process = struct.unpack(STRUCT_FLOCK, fcntl.fcntl(self.file, FCNTL[api][0], lock))
        names = {number: name for name, number in KINDS.items()}
        return "free" if kind == fcntl.F_UNLCK else f"{names[kind]} {start} {length} {process}"

    # A child inherits the open file, and closes it.
    def fork(self):
        child = os.fork()
        if child == 0:
            os.close(self.file)
            os._exit(0)
        os.waitpid(child, 0)

    def alarm(self, seconds):
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, float(seconds))

    def write(self, text):
        os.pwrite(self.file, text.encode(), 0)

    def read(self):
        return os.pread(self.file, 100, 0).decode()

    def count(self, api, rounds):
        for _ in range(int(rounds)):
            self.wait(api, "exclusive")
            counted = int(os.pread(self.file, 20, 0) or b"0")
            os.pwrite(self.file, b"%020d" % (counted + 1), 0)
            self.wait(api, "unlock")


locker = Locker(sys.argv[1])
if len(sys.argv) > 2:
    locker.count(*sys.argv[3:])
    sys.exit()
for line in sys.stdin:
    call, *arguments = line.split()
    try:
        answer = getattr(locker, call)(*arguments) or "ok"
    except Alarm:
        answer = "EINTR"
    except OSError as error:
        answer = "EDEADLK" if error.errno == errno.EDEADLK else errno.errorcode[error.errno] # it has two names
    print(answer, flush=True)
