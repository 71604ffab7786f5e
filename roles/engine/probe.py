"""A worker process that loads no model and no library: it binds itself, says how far that went, and ends.

`python -m roles.engine.probe PARENT_PID`; takes a tenth of the time of `worker`.
"""

import sys

from roles.engine.frames import Bound
from roles.engine.sandbox import isolate, lock
from roles.engine.worker import bind_process, take_stdout, write_message

if __name__ == "__main__":
    sink = take_stdout()
    limits, namespaces = bind_process(int(sys.argv[1])), isolate()
    write_message(sink, Bound((namespaces, *lock(), limits)))
