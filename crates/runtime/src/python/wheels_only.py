# Runs pip where nothing may be built. pip keeps --only-binary for what it finds on an index; what a package says that it needs by its
# address is built all the same. Each step of building is a program that pip starts, so none is: an audit hook (PEP 578) can't be taken
# away again, and nothing but pip itself has a say in this process.
import runpy
import sys

STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"}


def refuse(event, arguments):
    if event in STARTS:
        raise PermissionError("a package that has to be built (ALLOW_SOURCE_BUILDS)")


sys.addaudithook(refuse)
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
