"""What tests run in a process of its own: it starts another one, then neither does anything any more."""

import os
import signal
import subprocess
import sys

from bmqwen.runtime.child_process import watch_parent

if __name__ == "__main__":
    watch_parent(int(sys.argv[2]))
    stop = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    subprocess.Popen([sys.executable, "-c", stop], start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)
