"""An object in a process of its own: the vendor's library ends the process where it should report an error.

The simulator always runs in one: it also spins threads and prints on standard output from C.
"""

import contextlib
import ctypes
import os
import pickle
import pkgutil
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from bmqwen.errors import BmqwenError, DeviceError
from bmqwen.runtime.child_process import STOP_SECONDS, ChildProcess, watch_parent


class Worker:
    """A process that holds one object; `call` runs a method of it there.

    Not thread-safe: one call at a time. Arguments and results are pickled.
    """

    def __init__(
        self,
        factory: str,
        arguments: Mapping[str, Any],
        *,
        what: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process and make the object there by `factory`, "package.module:function", with its arguments.

        Messages name the object `what`; the process gets `environment` besides this one's. Raises BmqwenError as the
        factory does, and DeviceError if the process ends.
        """
        self._what, self._number, self._owes = what, 0, False
        self._child = ChildProcess(__name__, what=what, environment=environment)
        self._connection = Connection(self._child.socket.detach())
        try:
            self._exchange((factory, dict(arguments)))
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method, or read an attribute that is none.

        Raises BmqwenError as the method does, and DeviceError if the process ended during the call or earlier.
        """
        if not self._child.open:
            raise DeviceError(f"{self._what} was used after it was closed or had failed")
        return self._exchange((method, arguments))

    def close(self) -> None:
        """End the process. May be called twice."""
        # Losing its connection, the worker closes its object and ends. One whose call was interrupted would finish
        # that first, which takes minutes, or hangs.
        with contextlib.suppress(OSError):
            self._connection.close()
        self._child.close(0.0 if self._owes else STOP_SECONDS)

    def _exchange(self, request: tuple[Any, ...]) -> Any:
        self._number, self._owes = self._number + 1, True
        try:
            self._connection.send((self._number, *request))
            while True:
                number, ok, result = self._connection.recv()
                # Answers to calls that were interrupted are still on the way.
                if number == self._number:
                    break
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            with contextlib.suppress(OSError):
                self._connection.close()
            raise self._child.ended() from error
        self._owes = False
        if ok:
            return result
        if isinstance(result, BaseException):
            raise result
        raise DeviceError(f"{self._what} failed: {result}")


def serve(connection: Connection, parent: int) -> None:
    """The worker's side: make the object, then answer calls until the other side is gone."""
    watch_parent(parent)
    target: Any = None
    try:
        while True:
            number, name, arguments = connection.recv()
            ok, result = True, None
            try:
                if target is None:
                    target = pkgutil.resolve_name(name)(**arguments)
                else:
                    attribute = getattr(target, name)
                    result = attribute(*arguments) if callable(attribute) else attribute
            except BmqwenError as error:
                ok, result = False, _portable(error)
            except Exception as error:
                ok, result = False, f"{type(error).__name__}: {error}"
            connection.send((number, ok, result))
    except (EOFError, OSError):
        pass
    finally:
        if target is not None and hasattr(target, "close"):
            target.close()


def _portable(error: BmqwenError) -> Any:
    """The error itself where it survives pickling, else its text."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return str(error)
    return error


if __name__ == "__main__":
    # Lines printed from C would be lost in a buffer when the library ends the process.
    _libc = ctypes.CDLL(None)
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, 1, 0)
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    # The simulator's threads spin on after its device is closed.
    sys.stdout.flush()
    os._exit(0)
