"""Loads the user's Python code, calls its handler and sends the return value.

Runs inside the sandbox as the interpreter's script, or in a fork of the zygote; how it talks to the service is specified
in protocol.rs. It imports next to nothing: every module loaded here is paid for by each execution that starts cold. What
is expensive (json with its regular expressions, traceback, asyncio, inspect) is loaded when it is needed.
"""

import builtins
import os
import sys

NAME = "main.py"
RESULT_FD, REQUEST_FD = 3, 4
# Out of the way of code that closes or writes low ones.
HIGH_FD, LOWER_FD = 1000, 60
MAX_RETURN_BYTES = 10 * 1024 * 1024
MAX_TRACEBACK = 256 * 1024


def read_request():
    """The header, the code and the event's text; None when there is none, because the service wants nothing any more."""
    chunks = []
    # No more at a time than a pipe holds: room for more has to be made each time.
    while chunk := os.read(REQUEST_FD, 1 << 16):
        chunks.append(chunk)
    os.close(REQUEST_FD)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    del chunks
    if not data:
        return None
    if data[:4] != b"SBX1":
        raise SystemExit("the request is damaged")
    sections, offset = [], 4
    for _ in range(3):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        sections.append(data[offset + 4 : end].decode())
        offset = end
    return parse_json(sections[0]), sections[1], sections[2]


class JsonRules:
    """How the interpreter's own scanner is to read JSON: as json.loads has it."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float, parse_int = float, int
    memo = {}


try:
    from _json import make_scanner
except ImportError:
    scan_json = None
else:
    scan_json = make_scanner(JsonRules)


def parse_json(text):
    """json.loads without importing json, which costs more than the parsing."""
    if scan_json is None:
        import json

        return json.loads(text)
    # The event passes with all its digits; the interpreter's guard against long ones is for the user's code.
    limit = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else None
    if limit is not None:
        sys.set_int_max_str_digits(0)
    try:
        return scan_json(text.strip(" \t\r\n"), 0)[0]
    finally:
        if limit is not None:
            sys.set_int_max_str_digits(limit)


def to_json(value):
    """Strict JSON as bytes; raises what json.dumps would raise."""

    def unknown(item):
        raise TypeError(f"Object of type {type(item).__name__} is not JSON serializable")

    try:
        from _json import encode_basestring, make_encoder

        encode = make_encoder({}, unknown, encode_basestring, None, ": ", ", ", False, False, False)
    except (ImportError, TypeError):
        import json

        encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=unknown)
        return encoder.encode(value).encode()
    return "".join(encode(value, 0)).encode()


class Channel:
    """The result channel."""

    def __init__(self):
        try:
            self.fd = os.dup2(RESULT_FD, HIGH_FD, inheritable=False)
        except OSError:  # Fewer are allowed.
            self.fd = os.dup2(RESULT_FD, LOWER_FD, inheritable=False)
        os.close(RESULT_FD)
        self.owner = os.getpid()

    def send(self, kind, payload):
        """Sends a frame, from the process that was started, not from one that it forked."""
        if os.getpid() != self.owner:
            return
        data = memoryview(b"SBXR" + kind + len(payload).to_bytes(4, "little") + payload)
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError:
            pass  # The user's code closed it; the service sees that nothing came.

    def send_error(self, kind, name, message, traceback=None):
        """Sends an error frame, and makes sure that it can be sent whatever the texts hold."""
        fields = {"kind": kind, "name": name, "message": message, "traceback": traceback}
        clean = {
            key: text if text is None else text.encode("utf-8", "replace").decode()[-MAX_TRACEBACK:]
            for key, text in fields.items()
        }
        self.send(b"E", to_json(clean))


class Context:
    """What AWS Lambda gives a handler as its second argument."""

    def __init__(self, header):
        self.aws_request_id = header["execution_id"]
        self.function_name = header["function_name"]
        self._deadline_ns = int(header["deadline_ns"])

    def get_remaining_time_in_millis(self):
        """Milliseconds until the execution is stopped."""
        import time

        return max(0, (self._deadline_ns - time.monotonic_ns()) // 1_000_000)


class Loader:
    """Lets tracebacks and inspect show lines of code that is in no file."""

    def __init__(self, code):
        self._code = code

    def get_source(self, name):
        """The code, for the module that it is."""
        return self._code if name == "__main__" else None


class Main(type(sys)):
    """The type of the __main__ module, which is in no file: multiprocessing asks for one, by which the processes that
    it does not fork load the module, and gets it when it asks."""

    _copy = None  # its path; kept here, since what is set on the module is a name in the user's code

    @property
    def __file__(self):
        if sys._getframe(1).f_code.co_name == "get_preparation_data" and "__file__" in self.__dict__:
            Main._copy = Main._copy or write_copy(self.__loader__.get_source("__main__"), self.__dict__["__file__"])
            return Main._copy
        try:
            return self.__dict__["__file__"]
        except KeyError:
            raise AttributeError("module '__main__' has no attribute '__file__'") from None

    @__file__.setter
    def __file__(self, path):
        self.__dict__["__file__"] = path


# In such a process: the module is as in the first one, and the processes it starts in turn load it the same way.
COPY = """\
def prepare(path):
    from multiprocessing import spawn

    first = spawn.get_preparation_data
    spawn.get_preparation_data = lambda name: {{**first(name), "init_main_from_path": path}}

prepare(__file__)
del prepare
__file__ = {file!r}
__loader__ = type("Loader", (), {{"get_source": lambda self, name: {code!r}}})()
exec(compile(__loader__.get_source(""), {name!r}, "exec"), globals())
"""


def write_copy(code, file):
    """Writes a file that loads the user's code, outside of the workspace; returns its path."""
    import tempfile

    path = os.path.join(tempfile.mkdtemp(), NAME)
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as copy:
        copy.write(COPY.format(code=code, file=file, name=NAME))
    return path


def make_main(code):
    """A fresh __main__ module for the user's code."""
    module = Main("__main__")
    folder = os.getcwd()
    module.__file__ = os.path.join(folder, NAME)
    module.__loader__ = Loader(code)
    module.__builtins__ = builtins
    if sys.version_info < (3, 14):  # There from the start in a script, and made when they are asked for since then.
        module.__annotations__ = {}
    sys.modules["__main__"] = module
    sys.argv[:] = [NAME]
    sys.path[0] = folder
    return module


def takes_context(handler):
    """Whether to call handler(event, context) or handler(event)."""
    function = handler
    # A wrapper that takes as many as it is given passes them on to what it wraps; another one has arguments of its own.
    while hasattr(function, "__wrapped__"):
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is not None and not code.co_flags & 0x04:
            break
        function = function.__wrapped__
    bound = getattr(function, "__self__", None) is not None
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None:
        return bool(code.co_flags & 0x04) or code.co_argcount - bound >= 2
    import inspect

    try:
        inspect.signature(handler).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def call(handler, event, context):
    """The handler's value; an awaitable one is awaited."""
    value = handler(event, context) if takes_context(handler) else handler(event)
    if hasattr(value, "__await__"):
        import asyncio

        async def wait(awaitable):
            return await awaitable

        value = asyncio.run(value if asyncio.iscoroutine(value) else wait(value))
    return value


def user_traceback(error):
    """The error's traceback from the first line of the user's code on: what called that is of no interest."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename != NAME:
        step = step.tb_next
    return step


def report_exception(channel, error, code):
    """Prints an uncaught exception as the interpreter would, and sends it."""
    import linecache
    import traceback

    linecache.cache[NAME] = (len(code), None, code.splitlines(True), NAME)
    error.__traceback__ = user_traceback(error)
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:  # An exception whose own __str__ fails in an unforeseen way.
        text = f"{type(error).__name__}\n"
    try:
        message = str(error)
    except Exception:
        message = "<the exception's message could not be made>"
    channel.send_error("exception", type(error).__name__, message, text)
    if sys.excepthook is sys.__excepthook__:
        write_stderr(text)
        return
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as another:
        another.__context__ = None
        lines = traceback.format_exception(type(another), another, user_traceback(another))
        write_stderr(f"Error in sys.excepthook:\n{''.join(lines)}\nOriginal exception was:\n{text}")


def write_stderr(text):
    """Writes what is for the user to read; that nobody can read it is no failure."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        pass


def flush():
    """Flushes output while a failure can still be dealt with: one at the interpreter's end changes the exit code."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:
            setattr(sys, name, None)


def exit_code(error):
    """The exit code that the interpreter gives an uncaught SystemExit."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        # One that C can't hold is -1.
        return error.code & 0xFF if -(1 << 63) <= error.code < 1 << 63 else 0xFF
    try:
        text = f"{error.code!s}\n"
    except BaseException:  # Its own __str__; the interpreter says nothing then, either.
        return 1
    write_stderr(text)
    return 1


def is_idle(threading):
    """Whether no thread was started and nothing waits for the end of all, so that there is nothing to shut down."""
    locks = getattr(threading, "_shutdown_locks", None)  # The main thread's own, and those of others.
    waits = getattr(threading, "_threading_atexits", True)
    return not waits and locks is not None and len(locks) <= 1 and threading.active_count() == 1


def only_ours_are_open():
    """Whether no descriptor is open but the standard ones and the result channel."""
    ours = {"0", "1", "2", str(HIGH_FD)}
    try:
        # One more is open while the folder is read.
        return len(set(os.listdir("/proc/self/fd")) - ours) <= 1
    except OSError:
        return False


def leave(code, status):
    """Ends the process as the interpreter would, but without taking it apart object by object, which for a small program
    takes longer than the program: threads are waited for, exit handlers run, output is flushed.

    The long way is taken where it could be seen: with an open file that may have something unwritten, or a finalizer.
    """
    plain = "__del__" not in code and only_ours_are_open()
    threading = sys.modules.get("threading")
    if not plain or (threading is not None and not hasattr(threading, "_shutdown")):
        sys.exit(status)
    import atexit

    try:
        if threading is not None and not is_idle(threading):
            threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        pass  # It has been printed.
    flush()
    os._exit(status)


def run(channel, header, code, event_text):
    """Runs the user's code; returns the exit code."""
    mode = header["mode"]
    # What a file may begin with; only a file's decoder takes it away.
    code = code[1:] if code.startswith("\ufeff") else code
    try:
        namespace = make_main(code).__dict__
        event = parse_json(event_text)
        del event_text
        exec(compile(code, NAME, "exec", dont_inherit=True), namespace)
        handler = namespace.get("handler")
        if mode == "script" or (mode == "auto" and not callable(handler)):
            flush()
            return 0
        if not callable(handler):
            message = "the code defines no handler: write `def handler(event):` or `def handler(event, context):`"
            channel.send_error("handler_missing", "HandlerMissing", message)
            write_stderr(message + "\n")
            return 1
        value = call(handler, event, Context(header))
    except SystemExit as error:
        flush()
        return exit_code(error)
    except BaseException as error:
        flush()
        report_exception(channel, error, code)
        return 1
    flush()
    try:
        payload = to_json(value)
        if len(payload) > MAX_RETURN_BYTES:
            raise ValueError(
                f"the return value is {len(payload)} bytes as JSON; at most {MAX_RETURN_BYTES} are allowed"
            )
    except BaseException as error:
        message = f"the return value can't be sent as JSON: {error}"
        if isinstance(error, RecursionError):
            message = "the return value can't be sent as JSON: it is nested too deeply"
        channel.send_error("return_value", type(error).__name__, message)
        write_stderr(message + "\n")
        return 1
    channel.send(b"R", payload)
    return 0


def started_ahead():
    """Whether this process was started before its request: that comes by a pipe then."""
    import stat

    return stat.S_ISFIFO(os.fstat(REQUEST_FD).st_mode)


# Modules that every interpreter has loaded when it comes here, and those that were imported ahead.
LOADED, AHEAD = frozenset(sys.modules), set()


def import_ahead(names):
    """Imports modules, each by itself; returns what went wrong."""
    failures = []
    for name in names:
        try:
            __import__(name)
        except BaseException as error:
            failures.append(f"{name} can't be imported ahead: {type(error).__name__}: {error}")
    AHEAD.update(sys.modules.keys() - LOADED)
    return failures


def give_way():
    """Forgets what was imported ahead and is also the name of something in the working directory: an import finds that first."""
    try:
        entries = os.listdir()
    except OSError:
        return  # It may be shut by another program of the session; nothing can be imported from it then.
    for entry in entries:
        name = entry.partition(".")[0]
        if name in AHEAD:
            for module in [each for each in sys.modules if each == name or each.startswith(name + ".")]:
                del sys.modules[module]


def complete(header):
    """Puts in force what the process has started without: variables, and installed packages behind the caller's own folders."""
    given = os.environ.get("PYTHONPATH")
    if variables := header.get("env"):
        os.environ.update(variables)
    if packages := header.get("packages"):
        own = len({os.path.abspath(folder) for folder in given.split(os.pathsep)}) if given else 0
        sys.path.insert(1 + own, packages)


def wait_for_request():
    """Stands at the gate of a process that was started ahead; gives the channel and the request."""
    channel = Channel()
    os.write(channel.fd, b"SBXA")
    request = read_request()
    if request is None:
        os._exit(0)
    complete(request[0])
    give_way()
    return channel, request


def main():
    """From the request to the end of the process."""
    if started_ahead():
        import_ahead(sys.argv[1:])
        if sys.argv[1:]:
            del getattr(sys, "orig_argv", [])[1 - len(sys.argv) :]  # Python 3.10 and newer.
        channel, (header, code, event_text) = wait_for_request()
    else:
        channel = Channel()
        header, code, event_text = read_request()
        complete(header)
    leave(code, run(channel, header, code, event_text))


if __name__ == "__main__":
    main()
