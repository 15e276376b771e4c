"""Runs bootstrap.cjs the way the sandbox does and checks what comes out of it.

Each case starts a Node of its own with a sealed request on descriptor 4 and a result pipe on descriptor 3, in a fresh
workspace, and looks at the frame, the output and the exit code. Then all of it again with a Node that was started
ahead and gets the request by pipe, once it has said that it is ready. The layouts are those that protocol.rs specifies.

    NODE=/usr/bin/node python3 javascript_bootstrap.py [-k PATTERN]
"""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import tempfile
import textwrap
import threading
import time
import unittest
import unittest.mock
from pathlib import Path

NODE = os.environ.get("NODE", "/usr/bin/node")
BOOTSTRAP = Path(__file__).resolve().parent.parent / "src/javascript/bootstrap.cjs"
LIMIT = 10 * 1024 * 1024

# Popen's own pipe must not be what the child's dup2 to 3 and 4 hits.
while (reserved := os.open(os.devnull, os.O_RDONLY)) < 10:
    pass
os.close(reserved)


class Result:
    """One finished run."""

    def __init__(self, exit_code, raw, stdout, stderr, seconds):
        self.exit_code, self.raw, self.seconds = exit_code, raw, seconds
        self.stdout, self.stderr = stdout.decode(), stderr.decode()
        self.kind = self.value = None
        if raw:
            assert raw[:4] == b"SBXR", raw[:20]
            self.kind = raw[4:5].decode()
            (length,) = struct.unpack("<I", raw[5:9])
            assert len(raw) == 9 + length, "exactly one whole frame"
            self.value = json.loads(raw[9:].decode("utf-8"))

    def __repr__(self):
        return f"exit {self.exit_code}, frame {self.raw[:2000]!r}\nstdout: {self.stdout[:2000]}\nstderr: {self.stderr[:4000]}"


def request(code, event, mode, seconds_left, **more):
    header = {
        "language": "javascript",
        "mode": mode,
        "execution_id": "exec_1",
        "function_name": "greet",
        "deadline_ns": str(time.monotonic_ns() + int(seconds_left * 1e9)),
        **more,
    }
    sections = [json.dumps(header).encode(), code.encode(), event.encode()]
    return b"SBX1" + b"".join(struct.pack("<I", len(section)) + section for section in sections)


def sealed(data):
    fd = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)  # leaves the offset at the end: the bootstrap must not rely on it
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class Started:
    """A Node with its bootstrap, which has `request_end` on descriptor 4 and `result_end` on descriptor 3."""

    def __init__(self, workspace, result_end, request_end, env):
        self.process = subprocess.Popen(
            [NODE, "--experimental-vm-modules", str(BOOTSTRAP)],
            cwd=workspace, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=False,
            env={"PATH": os.environ["PATH"], "HOME": "/tmp", **env},
            preexec_fn=lambda: (os.dup2(result_end, 3), os.dup2(request_end, 4)),
        )
        os.close(request_end)


class Cold(Started):
    def __init__(self, workspace, result_end, data, env):
        super().__init__(workspace, result_end, sealed(data), env or {})


class Ahead(Started):
    """One that waits at its gate."""

    def __init__(self, workspace, result_end):
        request_end, self.gate = os.pipe()
        super().__init__(workspace, result_end, request_end, {})

    def await_gate(self, read_end):
        said = os.read(read_end, 5)
        assert said == b"SBXA", (said, self.process.communicate())

    def send(self, data):
        try:
            with os.fdopen(self.gate, "wb") as gate:
                gate.write(data)
        except BrokenPipeError:
            pass  # what came of it is in its output


class Case(unittest.TestCase):
    maxDiff = None
    ahead = False

    def setUp(self):
        self.workspace = Path(tempfile.mkdtemp(prefix="bootstrap-"))
        self.addCleanup(shutil.rmtree, self.workspace)

    def file(self, name, text):
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))

    def run_code(self, code, event="{}", mode="auto", seconds_left=30, env=None, slow_reader=0, channel=None, stdin=b""):
        """`channel(write_end)` may prepare the result pipe; `slow_reader` seconds pass before anything is read."""
        code = textwrap.dedent(code.removeprefix("\n") if code.startswith("\n ") else code)
        make = lambda **more: request(code, event, mode, seconds_left, **more)
        read_end, write_end = os.pipe()
        if channel:
            channel(write_end)
        run = Ahead(self.workspace, write_end) if self.ahead else Cold(self.workspace, write_end, make(), env)
        os.close(write_end)
        chunks = []
        started = time.monotonic()

        def drain():
            time.sleep(slow_reader)
            while chunk := os.read(read_end, 1 << 16):
                chunks.append(chunk)

        if self.ahead:
            run.await_gate(read_end)
            started = time.monotonic()
            writer = threading.Thread(target=run.send, args=(make(env=env or {}),))
            writer.start()
        reader = threading.Thread(target=drain)
        reader.start()
        time.sleep(slow_reader)
        try:
            stdout, stderr = run.process.communicate(stdin, timeout=30)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.communicate()
            self.fail("the run did not end")
        finally:
            reader.join()
            os.close(read_end)
        if self.ahead:
            writer.join()
        return Result(run.process.returncode, b"".join(chunks), stdout, stderr, time.monotonic() - started)

    def returns(self, code, value, **options):
        result = self.run_code(code, **options)
        self.assertEqual((result.kind, result.exit_code), ("R", 0), result)
        self.assertEqual(result.value, value)
        self.assertEqual(result.stderr, options.get("stderr", ""))
        return result

    def prints(self, code, stdout, **options):
        """A script: no frame."""
        result = self.run_code(code, **options)
        self.assertEqual((result.raw, result.exit_code, result.stderr), (b"", 0, ""), result)
        self.assertEqual(result.stdout, stdout)
        return result

    def fails(self, code, kind="exception", name=None, message=None, **options):
        result = self.run_code(code, **options)
        self.assertEqual((result.kind, result.exit_code), ("E", 1), result)
        self.assertEqual(set(result.value), {"kind", "name", "message", "traceback"})
        self.assertEqual(result.value["kind"], kind, result)
        if name is not None:
            self.assertEqual(result.value["name"], name, result)
        if message is not None:
            self.assertEqual(result.value["message"], message, result)
        self.assertEqual(result.stderr, (result.value["traceback"] or result.value["message"]) + "\n")
        self.assertNotIn("bootstrap.cjs", result.stderr)
        self.assertNotRegex(result.stderr, r"\n +at [^\n]*node:[^\n]*(?!\n +at )(\n|$)", "a stack that ends in Node itself")
        return result


class Handlers(Case):
    def test_a_top_level_function(self):
        self.returns("function handler(event) { return { hello: event.name } }", {"hello": "Alice"}, event='{"name":"Alice"}')

    def test_a_top_level_const(self):
        self.returns("const handler = async (event) => event.a + 1", 2, event='{"a":1}')

    def test_an_undeclared_global(self):
        self.returns("handler = () => 'global'", "global")

    def test_a_trailing_comment(self):
        self.returns("function handler() { return 1 } // the end", 1)

    def test_an_early_return(self):
        self.returns("globalThis.handler = () => 5; return", 5)

    def test_module_exports(self):
        self.returns("module.exports.handler = () => 1", 1)
        self.returns("module.exports = { handler: () => 2 }", 2)

    def test_exports(self):
        self.returns("exports.handler = async () => 3", 3)

    def test_an_export_goes_before_a_plain_function(self):
        self.returns("function handler() { return 'plain' }\nexports.handler = () => 'exported'", "exported")

    def test_es_module_exports(self):
        self.returns("export const handler = (event) => event", {"a": [1]}, event='{"a":[1]}')
        self.returns("export async function handler() { return 2 }", 2)
        self.returns("function handler() { return 3 }\nexport { handler }", 3)
        self.returns("export default { handler: () => 4 }", 4)
        self.returns("export default function () { return 5 }", 5)
        self.returns("export default async () => 6", 6)

    def test_es_module_without_the_export(self):
        self.returns("import fs from 'fs'\nfunction handler() { return typeof fs.readSync }", "function")

    def test_a_default_class_is_no_handler(self):
        self.prints("export default class A { constructor() { console.log('made') } }", "")

    def test_top_level_await(self):
        self.returns("const x = await Promise.resolve(7)\nfunction handler() { return x }", 7)
        self.returns("import 'fs'\nconst x = await Promise.resolve(8)\nfunction handler() { return x }", 8)
        self.returns("let x = 0\nfor await (const y of [1, 2]) x += y\nconst handler = () => x", 3)

    def test_top_level_await_of_a_parenthesis(self):
        self.returns("let x\nawait (async () => { x = 9 })()\nfunction handler() { return x }", 9)

    def test_top_level_await_with_require(self):
        self.returns("const os = require('os')\nconst x = await 5\nexports.handler = () => [x, typeof os.cpus, __dirname.length > 0]",
                     [5, "function", True])

    def test_undefined_is_null(self):
        self.returns("function handler() {}", None)
        self.returns("async function handler() {}", None)

    def test_no_event_is_an_empty_object(self):
        self.returns("exports.handler = (event) => event", {})

    def test_a_thenable(self):
        self.returns("exports.handler = () => ({ then(f) { setTimeout(f, 5, 'later') } })", "later")

    def test_context(self):
        result = self.returns(
            "exports.handler = (_, c) => [c.awsRequestId, c.functionName, c.getRemainingTimeInMillis()]",
            unittest.mock.ANY, seconds_left=20)
        self.assertEqual(result.value[:2], ["exec_1", "greet"])
        self.assertTrue(15_000 < result.value[2] <= 20_000, result.value)
        self.assertIs(type(result.value[2]), int)
        self.returns("exports.handler = (_, c) => c.getRemainingTimeInMillis()", 0, seconds_left=-1)

    def test_a_large_event(self):
        self.returns("exports.handler = (event) => [event.a.length, event.b]", [63 << 20, "é€😀"],
                     event=json.dumps({"a": "x" * (63 << 20), "b": "é€😀"}, ensure_ascii=False))

    def test_open_handles_do_not_hold_up_the_answer(self):
        result = self.returns("setInterval(() => {}, 1000)\nexports.handler = async () => 'now'", "now")
        self.assertLess(result.seconds, 5)

    def test_mode_script_never_calls_it(self):
        self.prints("console.log('top')\nexports.handler = () => console.log('called')", "top\n", mode="script")

    def test_mode_handler_needs_one(self):
        for code in ["console.log(1)", "export const x = 1", "const handler = { not: 'a function' }"]:
            result = self.fails(code, kind="handler_missing", name="HandlerMissing", mode="handler")
            self.assertIn("exports.handler = …", result.value["message"])
            self.assertIn("export const handler = …", result.value["message"])

    def test_exit_code_of_its_own(self):
        result = self.run_code("exports.handler = () => { process.exitCode = 3; return 1 }")
        self.assertEqual((result.kind, result.value, result.exit_code), ("R", 1, 3))

    def test_process_exit_in_a_handler(self):
        result = self.run_code("exports.handler = () => process.exit(7)")
        self.assertEqual((result.raw, result.exit_code, result.stderr), (b"", 7, ""))

    def test_exit_listeners_run(self):
        result = self.returns("process.on('exit', (c) => console.log('exit', c))\nexports.handler = () => 1", 1)
        self.assertEqual(result.stdout, "exit 0\n")


class Scripts(Case):
    def test_runs_to_its_natural_end(self):
        self.prints("setTimeout(() => console.log('late'), 50)\nconsole.log('early')", "early\nlate\n")

    def test_top_level_await(self):
        self.prints("await new Promise((r) => setTimeout(r, 20))\nconsole.log('done')", "done\n")
        self.prints("import { setTimeout as sleep } from 'node:timers/promises'\nawait sleep(20)\nconsole.log('done')", "done\n")

    def test_exit_codes(self):
        for code, expected in [("process.exitCode = 3", 3), ("process.exit(4)", 4), ("setTimeout(() => process.exit(5), 5)", 5)]:
            result = self.run_code(code)
            self.assertEqual((result.raw, result.exit_code, result.stderr), (b"", expected, ""))

    def test_commonjs_surroundings(self):
        self.file("lib.js", "exports.name = __filename")
        self.file("node_modules/pkg/index.js", "module.exports = 'pkg'")
        self.file("data.json", '{"a": 1}')
        self.prints(
            """
            console.log(require.main === module, __filename === process.argv[1], process.argv.length, process.execArgv)
            console.log(__filename === process.cwd() + '/main.mjs', __dirname === process.cwd(), this === module.exports)
            console.log(require('./lib').name === __dirname + '/lib.js', require('pkg'), require('./data').a)
            console.log(require.resolve('./lib') === __dirname + '/lib.js', module.children.length)
            """,
            "true true 2 []\ntrue true true\ntrue pkg 1\ntrue 3\n")

    def test_sloppy_mode(self):
        self.prints("with ({ a: 1 }) console.log(a, 010)\nreturn", "1 8\n")

    def test_hashbang(self):
        self.prints("#!/usr/bin/env node\nconsole.log(1)", "1\n")

    def test_no_traces(self):
        self.prints(
            """
            console.log(Object.keys(globalThis).filter((k) => !['global', 'clearImmediate', 'setImmediate', 'clearInterval',
              'clearTimeout', 'setInterval', 'setTimeout', 'queueMicrotask', 'structuredClone', 'atob', 'btoa', 'performance',
              'fetch', 'crypto', 'navigator', 'localStorage', 'sessionStorage'].includes(k)))
            console.log(Object.keys(require.cache), process.listenerCount('uncaughtException'), process.env.NODE_OPTIONS)
            """,
            "[]\n[] 0 undefined\n")

    def test_dynamic_import(self):
        self.file("lib.mjs", "export const a = 1; export default 2")
        self.file("node_modules/pkg/package.json", '{"name": "pkg", "exports": {"import": "./i.mjs", "require": "./r.js"}}')
        self.file("node_modules/pkg/i.mjs", "export default 'esm'")
        self.file("node_modules/pkg/r.js", "module.exports = 'cjs'")
        for prefix in ["", "import 'node:fs'\n", "await 0;\n"]:
            self.prints(
                prefix + """
(async () => {
  const lib = await import('./lib.mjs')
  console.log(lib.a, lib.default, (await import('pkg')).default, typeof (await import('node:fs')).readSync)
  setTimeout(async () => console.log((await import('./lib.mjs')) === lib), 10)
})()
""",
                "1 2 esm function\ntrue\n")

    def test_dynamic_import_after_a_collection(self):
        # Old Nodes forget a compiled function's import() once nothing refers to it.
        self.prints(
            """
            require('v8').setFlagsFromString('--expose-gc')
            const gc = require('vm').runInNewContext('gc')
            setTimeout(async () => { gc(); gc(); console.log((await import('os')).EOL === '\\n') }, 20)
            """,
            "true\n")

    def test_static_imports(self):
        self.file("a.mjs", "console.log('a'); export const a = 1; export default 'A'")
        self.file("b.mjs", "import './c.mjs'; console.log('b'); export * from './a.mjs'; export function f() {}")
        self.file("c.mjs", "await new Promise((r) => setTimeout(r, 20)); console.log('c')")
        self.file("cjs.cjs", "exports.x = 5")
        self.file("node_modules/pkg/package.json", '{"name": "pkg", "type": "module", "exports": "./i.js"}')
        self.file("node_modules/pkg/i.js", "export const named = 'pkg'")
        self.prints(
            """
            import './b.mjs'
            import A, { a as one } from './a.mjs'
            import * as b from './b.mjs'
            import { x } from './cjs.cjs'
            import cjs from './cjs.cjs'
            import { named } from 'pkg'
            import { join } from 'path'
            import process from 'node:process'
            console.log(A, one, Object.keys(b).join(), x, cjs.x, named, join('a', 'b'), process.argv.length)
            """,
            "a\nc\nb\nA 1 a,f 5 5 pkg a/b 2\n")

    def test_json_import(self):
        self.file("data.json", '{"a": 1}')
        version = int(subprocess.check_output([NODE, "-p", "process.versions.node.split('.')[0]"]))
        for keyword in ["assert"] if version < 20 else ["with"]:
            result = self.run_code(f"import d from './data.json' {keyword} {{ type: 'json' }}\nconsole.log(d.a)")
            self.assertEqual((result.exit_code, result.stdout), (0, "1\n"), result)

    def test_import_meta(self):
        self.prints(
            """
            import { pathToFileURL } from 'url'
            const file = process.cwd() + '/main.mjs'
            console.log(import.meta.url === pathToFileURL(file).href, import.meta.filename === file, import.meta.dirname === process.cwd())
            console.log(typeof require, this)
            """,
            "true true true\nundefined undefined\n")

    def test_workers_and_forks(self):
        self.file("worker.js", "require('worker_threads').parentPort.postMessage(process.execArgv.length)")
        self.file("child.js", "process.send([process.argv[2], process.execArgv])")
        self.prints(
            """
            const { Worker } = require('worker_threads')
            new Worker('./worker.js').once('message', () => {
              console.log('worker')
              require('child_process').fork('./child.js', ['x']).once('message', (m) => console.log(JSON.stringify(m)))
            })
            """,
            'worker\n["x",[]]\n')

    def test_other_warnings_stay(self):
        result = self.run_code("import 'fs'\nprocess.emitWarning('mine')\nawait 1")
        self.assertIn("Warning: mine", result.stderr)
        self.assertNotIn("ExperimentalWarning", result.stderr)


class Failures(Case):
    def traceback(self, code, expected, **options):
        result = self.fails(code, **options)
        self.assertEqual(result.value["traceback"], textwrap.dedent(expected).strip("\n"))
        return result

    def test_a_handler_that_throws(self):
        code = 'exports.handler = function handler() {\n  throw new Error("x")\n}'
        self.traceback(
            code,
            """
            main.mjs:2
              throw new Error("x")
                    ^

            Error: x
                at exports.handler (main.mjs:2:9)
            """ if "exports.handler (" in self.run_code(code).stderr else """
            main.mjs:2
              throw new Error("x")
                    ^

            Error: x
                at handler (main.mjs:2:9)
            """,
            name="Error", message="x")

    def test_an_async_handler_that_throws(self):
        self.traceback(
            """
            async function inner() {
              await null
            \tthrow new TypeError("bad")
            }
            async function handler() {
              await inner()
            }
            """,
            """
            main.mjs:3
            \tthrow new TypeError("bad")
            \t      ^

            TypeError: bad
                at inner (main.mjs:3:8)
                at async handler (main.mjs:6:3)
            """.replace("            ", ""),
            name="TypeError", message="bad")

    def test_the_top_level(self):
        for prefix, frame in [("", "Object.<anonymous> "), ("export {};", ""), ("await 0;", "")]:
            result = self.fails(f"{prefix}\nnull.x", name="TypeError", message="Cannot read properties of null (reading 'x')")
            self.assertTrue(result.stderr.startswith("main.mjs:2\nnull.x\n     ^\n\nTypeError: Cannot"), result)
            self.assertRegex(result.stderr.rstrip().splitlines()[-1], r"^    at .*main\.mjs:2:6\)?$")

    def test_the_first_line(self):
        for code in ["nope()", "nope(); await 0", "nope(); export {}"]:
            result = self.fails(code, name="ReferenceError", message="nope is not defined")
            self.assertTrue(result.stderr.startswith(f"main.mjs:1\n{code}\n^\n\nReferenceError"), result)

    def test_line_numbers_with_a_handler(self):
        result = self.fails("\n\n\nconst handler = 1\nthrow new Error('here')")
        self.assertTrue(result.stderr.startswith("main.mjs:5\n"), result)

    def test_later_errors(self):
        for code in [
            "setTimeout(() => { throw new RangeError('t') }, 5)",
            "Promise.reject(new RangeError('t'))",
            "setTimeout(() => Promise.reject(new RangeError('t')), 5)",
            "process.nextTick(() => { throw new RangeError('t') })",
            "exports.handler = () => { Promise.reject(new RangeError('t')); return new Promise(() => setTimeout(() => {}, 9e5)) }",
            "new (require('events'))().emit('error', new RangeError('t'))",
        ]:
            result = self.fails(code, name="RangeError", message="t")
            self.assertTrue(result.stderr.startswith("main.mjs:1\n"), result)
            self.assertIn("\n\nRangeError: t\n    at ", result.stderr)

    def test_what_is_no_error(self):
        for thrown, name, message in [("'x'", "string", "x"), ("null", "null", "null"), ("undefined", "undefined", "undefined"),
                                      ("42n", "bigint", "42"), ("Symbol('s')", "symbol", "Symbol(s)")]:
            for code in ["throw %s", "exports.handler = () => { throw %s }", "exports.handler = async () => { throw %s }", "await 0; throw %s"]:
                result = self.fails(code % thrown, name=name, message=message)
                self.assertIn("Uncaught", result.stderr)
        result = self.fails("throw { code: 5 }", name="object", message="{ code: 5 }")
        self.assertEqual(result.stderr, "Uncaught { code: 5 }\n")
        result = self.fails("Promise.reject('why')")
        self.assertIn('reason "why"', result.value["message"])

    def test_hostile_errors(self):
        for thrown in [
            "Object.defineProperty(new Error('m'), 'stack', { get() { throw 1 } })",
            "Object.defineProperty(new Error('m'), 'message', { get() { throw 1 } })",
            "Object.defineProperty(new Error('m'), 'name', { get() { throw 1 } })",
            "new Proxy(new Error('m'), { get() { throw 1 } })",
            "new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 1 } })",
            "Object.assign(new Error('m'), { stack: 5, name: {}, message: [] })",
            "Object.assign(new Error('m'), { stack: null })",
            "Object.freeze(new Error('m'))",
            "Object.create(null)",
            "{ [require('util').inspect.custom]() { throw 1 } }",
            "Object.assign(new Error('m'), { toString() { throw 1 } })",
            "new Error('lone \\ud800 surrogate')",
            "Object.assign(new Error('m'), { stack: 'main.mjs:1\\n    at x (/nowhere/at/all:1:1)' })",
            "Object.assign(new Error('m'), { stack: 'Error\\n    at x (file://%%%:1:1)\\n    at x (/dev/zero:1:1)' })",
        ]:
            for code in [f"throw ({thrown})", f"exports.handler = () => {{ throw ({thrown}) }}"]:
                with self.subTest(code):
                    self.fails(code)

    def test_huge_errors_are_cut(self):
        for thrown in ["new Error('m'.repeat(3e7))", "Object.assign(new Error('m'), { stack: 's\\n    at x'.repeat(3e6) })", "'x'.repeat(3e7)"]:
            result = self.fails(f"throw {thrown}")
            self.assertLess(len(result.raw), 300_000)
            self.assertLess(result.seconds, 10)

    def test_patched_prototypes(self):
        result = self.run_code(
            """
            String.prototype.slice = String.prototype.replace = Array.prototype.push = () => { throw 1 }
            JSON.stringify = JSON.parse = Buffer.from = process.exit = process.reallyExit = () => { throw 2 }
            RegExp.prototype.exec = () => { throw 3 }
            throw new Error('m')
            """)
        self.assertEqual((result.kind, result.value["name"], result.value["message"]), ("E", "Error", "m"), result)

    def test_cause_and_aggregate(self):
        result = self.fails("throw new Error('outer', { cause: new TypeError('inner') })")
        self.assertRegex(result.stderr, r"(?s)Error: outer\n    at .*main\.mjs:1:7\) \{\n  \[cause\]: TypeError: inner\n      at .*main\.mjs:1:35\)\n\}\n$")
        result = self.fails("throw new AggregateError([new Error('one'), new Error('two')], 'many')", name="AggregateError", message="many")
        for part in ["AggregateError: many\n", "[errors]: [\n", "Error: one\n", "Error: two\n"]:
            self.assertIn(part, result.stderr)
        result = self.fails("require('fs').readFileSync('/nowhere/x')", name="Error")
        self.assertIn("code: 'ENOENT'", result.stderr)
        self.assertTrue(result.stderr.startswith("main.mjs:1\nrequire('fs').readFileSync"), result)

    def test_syntax_errors(self):
        for code, line, text, caret in [
            ("let a = 1\nlet b = ;", 2, "let b = ;", 8),
            ("let a = 1\nfoo bar\nfunction handler() {}", 2, "foo bar", 4),
            ("import fs from 'fs'\nlet b = ;", 2, "let b = ;", 8),
            ("await 0\nlet b = ;", 2, "let b = ;", 8),
            ("let a\nexport const x = ;", 2, "export const x = ;", 17),
            ("let a\nfunction f() { await g() }", 2, "function f() { await g() }", 15),
            ("with ({}) {}\nlet b = ;", 2, "let b = ;", 8),
            ("const a = 1\nconst a = 2", 2, "const a = 2", 6),
        ]:
            with self.subTest(code):
                result = self.fails(code, name="SyntaxError")
                self.assertTrue(result.stderr.startswith(f"main.mjs:{line}\n{text}\n{' ' * caret}^"), result)
                self.assertIn("\n\nSyntaxError: ", result.stderr)

    def test_incomplete_code_is_not_mended(self):
        for code in ["function handler() { return 1", "if (handler)", "let handler =", "handler = `", "/* handler", "function handler() {}\nwhile (1)"]:
            with self.subTest(code):
                result = self.fails(code, name="SyntaxError")
                self.assertNotIn("typeof", result.stderr)
                self.assertNotIn("arguments", result.stderr)

    def test_errors_in_the_users_files(self):
        self.file("lib.js", "exports.f = function f() {\n  throw new Error('lib')\n}")
        self.file("lib.mjs", "export function f() {\n  throw new Error('lib')\n}")
        for code in ["require('./lib').f()", "import { f } from './lib.mjs'\nf()"]:
            result = self.fails(code, name="Error", message="lib")
            self.assertRegex(result.stderr, r"^(file://)?/\S+/lib\.m?js:2\n  throw new Error\('lib'\)\n        \^\n\nError: lib\n    at ")
            self.assertRegex(result.stderr, r"lib\.m?js:2:9\)\n    at .*main\.mjs:[12]:")

    def test_syntax_errors_in_the_users_files(self):
        self.file("bad.js", "let a\nfoo bar\n")
        self.file("bad.mjs", "let a\nfoo bar\n")
        for code in ["require('./bad.js')", "import './bad.mjs'", "await import('./bad.mjs')"]:
            result = self.fails(code, name="SyntaxError")
            self.assertRegex(result.stderr, r"^\S+/bad\.m?js:2\nfoo bar\n    \^(\^\^)?\n\nSyntaxError: ")

    def test_missing_imports(self):
        self.file("lib.mjs", "export const a = 1")
        result = self.fails("import './nope.mjs'")
        self.assertRegex(result.value["message"], r"^Cannot find module '/\S+/nope\.mjs' imported from /\S+/main\.mjs$")
        self.fails("import x from 'nope'")
        self.fails("require('nope')")
        result = self.fails("\nimport { b } from './lib.mjs'", name="SyntaxError")
        self.assertIn("does not provide an export named 'b'", result.value["message"])

    def test_what_never_settles(self):
        for code in ["export const handler = () => new Promise(() => {})", "function handler() { return new Promise(() => {}) }"]:
            self.fails(code, message="the handler's promise never settled: nothing is left to wait for")
        for code in ["await new Promise(() => {})", "import 'fs'; await new Promise(() => {})"]:
            self.fails(code, message="the top-level await never settled: nothing is left to wait for")

    def test_stack_overflow(self):
        self.fails("function handler() { return handler() }", name="RangeError", message="Maximum call stack size exceeded")

    def test_the_users_own_listeners(self):
        self.prints("process.on('uncaughtException', (e, o) => console.log(e.message, o))\nthrow new Error('m')", "m uncaughtException\n")
        self.prints("process.on('uncaughtException', (e) => console.log(e))\nsetTimeout(() => { throw 1 }, 5)", "1\n")
        self.prints("process.on('unhandledRejection', (e) => console.log('r', e))\nPromise.reject(5)", "r 5\n")
        self.prints("process.setUncaughtExceptionCaptureCallback((e) => console.log('c', e))\nthrow 6", "c 6\n")
        self.prints("const d = require('domain').create(); d.on('error', (e) => console.log('d', e.message))\nd.run(() => setTimeout(() => { throw new Error('x') }))", "d x\n")
        result = self.run_code("process.on('uncaughtException', () => process.exit(9))\nthrow 1")
        self.assertEqual((result.raw, result.exit_code, result.stderr), (b"", 9, ""))
        result = self.fails("process.on('exit', (c) => console.log('exit', c))\nthrow new Error('m')")
        self.assertEqual(result.stdout, "exit 1\n")

    def test_an_exit_listener_that_throws(self):
        result = self.run_code("process.on('exit', () => { throw new Error('late') })\nexports.handler = () => 5")
        self.assertEqual((result.kind, result.value, result.exit_code), ("R", 5, 1), result)
        self.assertIn("Error: late", result.stderr)


class ReturnValues(Case):
    def refused(self, expression, message):
        result = self.fails(f"exports.handler = async () => {{ {expression} }}", kind="return_value", name="ReturnValueError")
        self.assertEqual(result.value["message"].removeprefix("the return value can't be written as JSON: "), message, result)
        return result

    def test_what_json_holds(self):
        for expression, value in [
            ("null", None), ("true", True), ("0.5", 0.5), ("-0", 0), ("'é€😀\\n\\u0000'", "é€😀\n\0"), ("[]", []), ("1e21", 1e21),
            ("({ a: undefined, b: [undefined, , 1], c: {} })", {"b": [None, None, 1], "c": {}}),
            ("new Date(0)", "1970-01-01T00:00:00.000Z"),
            ("({ toJSON() { return { x: 1 } } })", {"x": 1}),
            ("({ toJSON() {} })", None),
            ("({ d: new Number(3), s: new String('s'), b: new Boolean(false) })", {"d": 3, "s": "s", "b": False}),
            ("Buffer.from('a')", {"type": "Buffer", "data": [97]}),
            ("new (class A { x = 1; #y = 2; m() {} })()", {"x": 1}),
            ("Object.assign(Object.create(null), { a: 1, ['__proto__']: 2 })", {"a": 1, "__proto__": 2}),
            ("({ [Symbol('s')]: 1 })", {}),
            ("(() => { const shared = { a: [1] }; return [shared, { shared }, shared] })()", [{"a": [1]}, {"shared": {"a": [1]}}, {"a": [1]}]),
        ]:
            with self.subTest(expression):
                self.returns(f"exports.handler = () => ({expression})", value)

    def test_what_it_does_not(self):
        for expression, message in [
            ("return NaN", "$ is NaN"),
            ("return { a: [1, Infinity] }", "$.a[1] is Infinity"),
            ("return [-Infinity]", "$[0] is -Infinity"),
            ("return { a: { 'b c': 1n } }", '$.a["b c"] is a BigInt'),
            ("return Object(1n)", "$ is a BigInt"),
            ("return { n: new Number(NaN) }", "$.n is NaN"),
            ("return () => 1", "$ is a function"),
            ("return { f() {} }", "$.f is a function"),
            ("return [Symbol('x')]", "$[0] is a symbol"),
            ("return { m: new Map() }", "$.m is a Map"),
            ("return [1, new Set([1])]", "$[1] is a Set"),
            ("return new WeakMap()", "$ is a WeakMap"),
            ("return { p: Promise.resolve(1) }", "$.p is a Promise (not awaited)"),
            ("const a = { b: [] }; a.b.push(a); return a", "$.b[0] refers back to what contains it"),
            ("const a = []; a.push(1, a); return { x: 1, a }", "$.a[1] refers back to what contains it"),
            ("return { s: '\\ud800' }", "$.s is a string with a lone surrogate, which UTF-8 can't hold"),
            ("return ['ok😀', 'x\\udc00y']", "$[1] is a string with a lone surrogate, which UTF-8 can't hold"),
            ("return new String('\\ud800')", "$ is a string with a lone surrogate, which UTF-8 can't hold"),
            ("return { '\\ud800': 1 }", '$["\\ud800"] has a key with a lone surrogate, which UTF-8 can\'t hold'),
        ]:
            with self.subTest(expression):
                self.refused(expression, message)

    def test_reading_it_throws(self):
        result = self.refused("return { get a() { throw new TypeError('no') } }", "reading it threw TypeError: no")
        self.assertIn("main.mjs:1", result.stderr)
        self.refused("return { toJSON() { throw 'x' } }", "reading it threw string: x")
        self.refused("return { get a() { throw undefined } }", "reading it threw undefined: undefined")
        self.refused("return { toJSON() { return this.toJSON() } }", "reading it threw RangeError: Maximum call stack size exceeded")
        self.refused("const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); return [proxy]",
                     "reading it threw TypeError: Cannot perform 'get' on a proxy that has been revoked")

    def test_depth(self):
        nested = "let a = 1; for (let i = 0; i < %d; i++) a = %s; return a"
        for shape in ["[a]", "{ a }"]:
            result = self.run_code(f"exports.handler = () => {{ {nested % (128, shape)} }}")
            self.assertEqual((result.kind, result.exit_code), ("R", 0))
        self.refused(nested % (129, "[a]"), "$" + "[0]" * 128 + " is nested more than 128 levels deep")
        self.refused(nested % (100_000, "{ a }"), "$" + ".a" * 128 + " is nested more than 128 levels deep")

    def test_size(self):
        self.returns(f"exports.handler = () => 'é'.repeat({(LIMIT - 2) // 2})", "é" * ((LIMIT - 2) // 2))
        self.refused(f"return 'x'.repeat({LIMIT})", f"the return value is {LIMIT + 2} bytes as JSON; at most {LIMIT} are allowed")
        # Shared parts: small in memory, without end as JSON.
        result = self.fails("exports.handler = () => { let a = 'x'; for (let i = 0; i < 100; i++) a = [a, a]; return a }", kind="return_value")
        self.assertRegex(result.value["message"], f"^the return value is more than {LIMIT} bytes as JSON; at most {LIMIT} are allowed$")
        self.returns("exports.handler = () => Array(5242879).fill(1)", [1] * 5_242_879)  # one byte short of the limit
        self.fails("exports.handler = () => { const s = 'x'.repeat(1e8); return Array(100).fill(s) }", kind="return_value")

    def test_after_everything_was_redefined(self):
        self.returns(
            """
            exports.handler = (event) => ({ a: [1, 'two'], event })
            JSON.stringify = () => '"forged"'; JSON.parse = () => 'forged'
            Array.isArray = Number.isFinite = Number.prototype.toString = RegExp.prototype.exec = RegExp.prototype.test = () => { throw 1 }
            String.prototype.replace = String.prototype.slice = Array.prototype.push = Array.prototype.map = Array.prototype.find = () => { throw 2 }
            Array.prototype[Symbol.iterator] = () => { throw 4 }
            Buffer.from = Buffer.alloc = Buffer.byteLength = Buffer.concat = () => { throw 3 }
            Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw 4 }
            parseInt = Number = String = BigInt = Buffer = JSON = undefined
            const fs = require('fs'); fs.writeSync = fs.closeSync = fs.write = () => { throw 5 }
            process.exit = process.hrtime = process.nextTick = () => { throw 6 }
            """,
            {"a": [1, "two"], "event": {"e": 1}}, event='{"e":1}')


class Channels(Case):
    def test_output_is_no_result(self):
        result = self.returns("exports.handler = () => { process.stdout.write('SBXRR\\0\\0\\0\\0'); return 'real' }", "real")
        self.assertEqual(result.stdout, "SBXRR\0\0\0\0")

    def test_low_descriptors_closed(self):
        result = self.run_code(
            """
            const fs = require('fs')
            exports.handler = () => {
              for (let fd = 0; fd < 5; fd++) try { fs.closeSync(fd) } catch {}
              console.log('lost'); console.error('lost')
              process.stdout.write('lost'); process.stderr.write('lost')
              return new Promise((r) => setTimeout(r, 20, 'kept'))
            }
            """)
        self.assertEqual((result.kind, result.value, result.exit_code), ("R", "kept", 0), result)

    def test_output_closed_after_use(self):
        result = self.run_code(
            """
            console.log('a'); console.error('b')
            exports.handler = async () => {
              require('fs').closeSync(1); require('fs').closeSync(2)
              console.log('lost'); process.stdout.write('lost'); process.stderr.write('lost')
              await new Promise((r) => setTimeout(r, 20))
              return 'kept'
            }
            """)
        self.assertEqual((result.kind, result.value, result.exit_code, result.stdout), ("R", "kept", 0, "a\n"), result)

    def test_failing_without_stderr(self):
        result = self.run_code("require('fs').closeSync(2)\nthrow new Error('m')")
        self.assertEqual((result.kind, result.value["message"], result.exit_code), ("E", "m", 1))

    def test_the_request_is_closed_and_the_channel_moved(self):
        self.prints("for (const fd of [3, 4]) try { require('fs').fstatSync(fd); console.log('open') } catch (e) { console.log(e.code) }",
                    "EBADF\nEBADF\n")

    def test_children_have_neither(self):
        result = self.returns(
            """
            const { spawnSync } = require('child_process')
            exports.handler = () => [3, 4].map((fd) => spawnSync('sh', ['-c', `echo forged >&${fd}`]).status !== 0)
            """,
            [True, True])
        self.assertEqual(result.raw[9:], b"[true,true]")

    def test_a_channel_that_can_not_be_reopened(self):
        # As where the pipe belongs to another user, or there is no /proc. As root it opens anyway: both are fine.
        self.returns("exports.handler = () => 'x'.repeat(300000)", "x" * 300_000, channel=lambda fd: os.fchmod(fd, 0))

    def test_a_full_nonblocking_channel(self):
        self.returns("exports.handler = () => 'x'.repeat(3e6)", "x" * 3_000_000, channel=lambda fd: os.set_blocking(fd, False), slow_reader=0.5)

    def test_a_child_that_outlives_it_does_not_hold_the_channel(self):
        result = self.returns(
            """
            require('child_process').spawn('sleep', ['20'], { stdio: 'ignore', detached: true }).unref()
            exports.handler = () => 1
            """, 1)
        self.assertLess(result.seconds, 5)

    def test_stdin_is_read(self):
        self.returns("exports.handler = () => require('fs').readFileSync(0, 'utf8')", "")

    def test_all_output_arrives(self):
        for ending in ["process.exit(0)", "exports.handler = () => 1", "throw new Error('m')", "setTimeout(process.exit, 1, 0)"]:
            for stream in ["stdout", "stderr"]:
                with self.subTest(ending, stream=stream):
                    result = self.run_code(
                        f"for (let i = 0; i < 5000; i++) process.{stream}.write('x'.repeat(1023) + '\\n')\n"
                        f"console.{'log' if stream == 'stdout' else 'error'}('y'.repeat(1e6))\n{ending}", slow_reader=0.3)
                    text = getattr(result, stream)
                    self.assertEqual(text[:6_120_001], ("x" * 1023 + "\n") * 5000 + "y" * 1_000_000 + "\n")

    def test_a_request_that_is_cut_short(self):
        whole = request("console.log('ran')", "{}", "auto", 30)
        with unittest.mock.patch(f"{__name__}.request", lambda *_, **__: whole[:-1]):
            result = self.run_code("")
        self.assertEqual((result.raw, result.stdout, result.exit_code), (b"", "", 1), result)
        self.assertIn("the request is cut short", result.stderr)


class Surroundings(Case):
    """What an execution is given beside its request."""

    def test_environment(self):
        env = {"A": "1", "EMPTY": "", "É": "é€😀", "__proto__": "p", "TMPDIR": "/nowhere"}
        self.returns(
            """
            const { execSync } = require('child_process')
            const env = { ...process.env }
            const tmpdir = require('os').tmpdir()
            exports.handler = () => [env.A, env.EMPTY, env['É'], env.HOME, tmpdir, execSync('echo $A $HOME; env | grep ^__proto__').toString()]
            """,
            ["1", "", "é€😀", "/tmp", "/nowhere", "1 /tmp\n__proto__=p\n"], env=env)

    def test_modules_below_the_home(self):
        self.file(".node_modules/pkg/index.js", "module.exports = 'home'")
        workspace = self.workspace
        self.workspace = workspace / "sub"
        self.workspace.mkdir()
        self.returns("exports.handler = () => require('pkg')", "home", env={"HOME": str(workspace)})

    def test_standard_input(self):
        lines = b"one\ntwo\n" * 50_000
        self.returns("exports.handler = () => require('fs').readFileSync(0, 'utf8').length", len(lines), stdin=lines)
        self.returns(
            """
            exports.handler = async () => {
              let n = 0
              for await (const line of require('readline').createInterface({ input: process.stdin })) n += line === 'two'
              return n
            }
            """, 50_000, stdin=lines)

    def test_clock(self):
        result = self.returns("exports.handler = () => [process.uptime(), Date.now() - performance.timeOrigin - performance.now()]", unittest.mock.ANY)
        self.assertTrue(0 <= result.value[0] <= result.seconds + 0.1, result)
        self.assertLess(abs(result.value[1]), 1000)

    def test_order_of_what_is_put_off(self):
        self.prints(
            """
            setImmediate(() => console.log('immediate'))
            Promise.resolve().then(() => console.log('promise'))
            process.nextTick(() => console.log('tick'))
            console.log('now')
            """,
            "now\ntick\npromise\nimmediate\n")

    def test_randomness_is_its_own(self):
        draw = "exports.handler = () => [Math.random(), require('crypto').randomUUID(), require('crypto').randomBytes(8).toString('hex')]"
        first, second = (self.returns(draw, unittest.mock.ANY) for _ in range(2))
        for one, other in zip(first.value, second.value, strict=True):
            self.assertNotEqual(one, other)


class WhatWaits(Case):
    """Only of one that was started ahead."""

    def start(self):
        read_end, write_end = os.pipe()
        self.addCleanup(os.close, read_end)
        run = Ahead(self.workspace, write_end)
        os.close(write_end)
        run.await_gate(read_end)
        return run, read_end

    def test_no_request_at_all(self):
        run, read_end = self.start()
        os.close(run.gate)
        self.assertEqual(run.process.communicate(timeout=10), (b"", b""))
        self.assertEqual((run.process.returncode, os.read(read_end, 1)), (0, b""))

    def test_a_request_that_comes_in_pieces(self):
        run, read_end = self.start()
        data = request("exports.handler = () => 'whole'", "{}", "auto", 30)
        for at in range(0, len(data), 50):
            os.write(run.gate, data[at:at + 50])
            time.sleep(0.01)
        self.assertIsNone(run.process.poll())  # only the end of the pipe is the end of the request
        os.close(run.gate)
        self.assertEqual((run.process.communicate(timeout=10), run.process.returncode), ((b"", b""), 0))
        self.assertEqual(os.read(read_end, 99)[9:], b'"whole"')

    def test_a_folder_that_was_replaced_meanwhile(self):
        read_end, write_end = os.pipe()
        run = Ahead(self.workspace, write_end)
        os.close(write_end)
        run.await_gate(read_end)
        self.workspace.rename(f"{self.workspace}-before")
        self.addCleanup(shutil.rmtree, f"{self.workspace}-before")
        self.file("lib.js", "module.exports = 'new'")
        run.send(request("exports.handler = () => [process.cwd(), require('./lib')]", "{}", "auto", 30))
        self.assertEqual((run.process.communicate(timeout=10), run.process.returncode), ((b"", b""), 0))
        self.assertEqual(json.loads(os.read(read_end, 999)[9:]), [str(self.workspace), "new"])
        os.close(read_end)

    def test_a_program_sees_what_it_would_have_seen_cold(self):
        self.file("lib.js", "")
        code = """
            const { fstatSync, readdirSync, readlinkSync } = require('fs')
            const pipes = () => readdirSync('/proc/self/fd').filter((fd) => { try { return readlinkSync(`/proc/self/fd/${fd}`).startsWith('pipe:') } catch {} })
            const low = [0, 1, 2, 3, 4].map((fd) => { try { return fstatSync(fd).isFIFO() } catch (error) { return error.code } })
            const flags = [1, 2].map((fd) => require('fs').readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/flags:\\s+(\\d+)/)[1])
            exports.handler = () => ({
              low, flags,
              pipes: pipes().length,
              listeners: process.eventNames().map((name) => [String(name), process.listenerCount(name)]),
              handles: (process.stdout, process.stderr, process._getActiveHandles().length),
              process: Object.getOwnPropertyNames(process).sort(),
              globals: Object.getOwnPropertyNames(globalThis).sort(),
              argv: [process.argv, process.execArgv, process.title, process.exitCode ?? null, process.cwd()],
              env: process.env,
              module: [module.id, module.children.length, module.paths, Object.keys(require.cache), require.main === module],
              paths: require('module').globalPaths,
              pathCache: Object.keys(require('module')._pathCache).filter((key) => !key.includes('bootstrap.cjs')),
              limit: Error.stackTraceLimit,
              stack: new Error('x').stack,
            })
            """
        seen = []
        for self.ahead in (False, True):
            seen.append(self.run_code(code).value)
        cold, ahead = seen
        self.assertEqual(len(cold), 14)
        for name in cold:
            self.assertEqual(ahead[name], cold[name], name)

    def test_it_uses_no_processor(self):
        run, _ = self.start()
        spent = lambda: sum(map(int, Path(f"/proc/{run.process.pid}/stat").read_text().rsplit(")")[1].split()[11:13]))
        time.sleep(0.2)  # V8's threads end what they began
        before = spent()
        time.sleep(0.5)
        self.assertLessEqual(spent() - before, 1, "ticks of 10 ms")
        os.close(run.gate)
        run.process.communicate(timeout=10)


# Each case once more, with a Node that was started ahead.
for name, case in list(globals().items()):
    if isinstance(case, type) and issubclass(case, Case) and case not in (Case, WhatWaits):
        globals()[f"{name}Ahead"] = type(f"{name}Ahead", (case,), {"ahead": True})
del case


if __name__ == "__main__":
    unittest.main()
