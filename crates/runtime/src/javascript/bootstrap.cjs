// The program by which user JavaScript runs in the sandbox: `node --experimental-vm-modules bootstrap.cjs`.
//
// It reads the request (fd 4), closes it, compiles the code as CommonJS or, failing that, as an ES module named
// `main.mjs` in the working directory, calls its handler if there is one, and writes one frame to the result
// channel (fd 3). The layouts are specified in protocol.rs.
//
// User code shares this process and may redefine anything it can reach. So what is needed after it has run is taken
// hold of first, and nothing here is a boundary: a program can at worst misreport itself.
'use strict';

const fs = require('fs');
const vm = require('vm');
const Module = require('module');
const { inspect, types } = require('util');

const { closeSync, openSync, readSync, readFileSync, writeSync } = fs;
const { parse, stringify } = JSON;
const { isArray } = Array;
const { from: bytesOf, byteLength } = Buffer;
const { nextTick } = process;
const exit = process.exit.bind(process);
const listenerCount = process.listenerCount.bind(process);
const hasCapture = process.hasUncaughtExceptionCaptureCallback.bind(process);
const { isBigIntObject, isBoxedPrimitive, isMap, isNativeError, isNumberObject, isPromise, isSet, isStringObject, isWeakMap, isWeakSet } = types;
const now = process.hrtime.bigint;
const toNumber = Number;
const toText = String;
const sleep = Atomics.wait;
const uncurry = Function.prototype.bind.bind(Function.prototype.call);
const execute = uncurry(RegExp.prototype.exec);
const sourceOf = uncurry(Function.prototype.toString);

const RESULT_FD = 3;
const REQUEST_FD = 4;
const MAX_RESULT_BYTES = 10 * 1024 * 1024;
const MAX_DEPTH = 128;
const MAX_TRACEBACK = 64 * 1024; // in characters; also bounds name and message

const NAME = 'main.mjs';
const folder = process.cwd();
const file = folder === '/' ? `/${NAME}` : `${folder}/${NAME}`;

// ---- request and result -------------------------------------------------------------------------------------------

function readRequest() {
  const request = Buffer.allocUnsafe(fs.fstatSync(REQUEST_FD).size);
  for (let at = 0, n; at < request.length; at += n) {
    n = readSync(REQUEST_FD, request, at, request.length - at, at);
    if (n === 0) throw new Error('the request is cut short');
  }
  if (request.toString('latin1', 0, 4) !== 'SBX1') throw new Error('not a request');
  let at = 4;
  const [header, code, event] = [0, 0, 0].map(() => {
    const start = at + 4;
    at = start + request.readUInt32LE(at);
    return request.toString('utf8', start, at);
  });
  return { ...JSON.parse(header), code, event };
}

// Node can't dup, but opening the pipe anew gives a descriptor that is close-on-exec and not 3: then neither the user
// code that closes the low ones nor its children can hit it by chance. Where the pipe is another user's or /proc is
// missing, 3 has to do; Node has marked that close-on-exec at its start too.
function openChannel() {
  try {
    const fd = openSync(`/proc/self/fd/${RESULT_FD}`, fs.constants.O_WRONLY);
    closeSync(RESULT_FD);
    return fd;
  } catch {
    return RESULT_FD;
  }
}

function writeAll(fd, bytes) {
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
      sleep(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

let sent = false;
function send(kind, json) {
  if (sent) return;
  sent = true;
  const frame = bytesOf(`SBXR${kind}\0\0\0\0${json}`);
  const length = frame.length - 9;
  for (let i = 0; i < 4; i++) frame[5 + i] = length >>> (8 * i);
  writeAll(channel, frame);
}

// Pipes must be written synchronously, or process.exit() loses what Node has still queued; and a closed one is no
// reason to die. Streams are made at their first use, so the getter waits for that and then restores itself.
function prepareOutput(name) {
  const original = Object.getOwnPropertyDescriptor(process, name);
  Object.defineProperty(process, name, {
    ...original,
    get() {
      Object.defineProperty(process, name, original);
      const stream = process[name];
      stream._handle?.setBlocking?.(true);
      stream.on('error', () => {});
      return stream;
    },
  });
}

// ---- the return value ---------------------------------------------------------------------------------------------

// JSON.stringify drops or rewrites what JSON can't hold. Its replacer sees every value once, after getters and toJSON,
// and refuses those instead. `path` and `holders` are those of the value in hand; index 0 is the wrapper of the root.
function serialize(result) {
  const holders = [];
  const path = [];
  let size = 0; // a lower bound: stops what would grow without end through shared parts
  let refusal;

  const refuse = (why, depth) => {
    let where = '$';
    for (let i = 1; i <= depth; i++) {
      where += isArray(holders[i]) ? `[${path[i]}]` : execute(/^[A-Za-z_$][\w$]*$/, path[i]) ? `.${path[i]}` : `[${stringify(path[i])}]`;
    }
    refusal = `the return value can't be written as JSON: ${where} ${why}`;
    throw refusal;
  };
  const loneSurrogate = (text) => execute(/\p{Surrogate}/u, text) !== null;

  const check = function (key, value) {
    let depth = holders.length - 1;
    while (depth >= 0 && holders[depth] !== this) depth--;
    if (depth < 0) depth = holders.length;
    holders.length = depth + 1;
    holders[depth] = this;
    path[depth] = key;
    size += key.length + 1;
    if (size > 4 * MAX_RESULT_BYTES) {
      refusal = `the return value is more than ${size} bytes as JSON; at most ${MAX_RESULT_BYTES} are allowed`;
      throw refusal;
    }
    if (depth > 0 && !isArray(this) && loneSurrogate(key)) refuse('has a key with a lone surrogate, which UTF-8 can\'t hold', depth);
    if (typeof value === 'object' && value !== null && isBoxedPrimitive(value)) {
      if (isNumberObject(value)) value = toNumber(value);
      else if (isStringObject(value)) value = toText(value);
      else if (isBigIntObject(value)) refuse('is a BigInt', depth);
    }
    switch (typeof value) {
      case 'string':
        if (loneSurrogate(value)) refuse('is a string with a lone surrogate, which UTF-8 can\'t hold', depth);
        size += value.length;
        break;
      case 'number':
        if (value - value !== 0) refuse(`is ${value}`, depth);
        break;
      case 'bigint':
        refuse('is a BigInt', depth);
        break;
      case 'function':
      case 'symbol':
        refuse(`is a ${typeof value}`, depth);
        break;
      case 'object': {
        if (value === null) break;
        const kind = isMap(value) ? 'Map' : isSet(value) ? 'Set' : isPromise(value) ? 'Promise (not awaited)'
          : isWeakMap(value) ? 'WeakMap' : isWeakSet(value) ? 'WeakSet' : null;
        if (kind) refuse(`is a ${kind}`, depth);
        for (let i = 1; i <= depth; i++) if (holders[i] === value) refuse('refers back to an object that contains it', depth);
        if (depth + 1 > MAX_DEPTH) refuse(`is nested more than ${MAX_DEPTH} levels deep`, depth);
      }
    }
    return value;
  };

  let json;
  try {
    json = stringify(result, check) ?? 'null';
  } catch (error) {
    throw refusal ? { message: refusal } : { message: `the return value can't be written as JSON: reading it threw ${summary(error)}`, error };
  }
  const bytes = byteLength(json);
  if (bytes > MAX_RESULT_BYTES) throw { message: `the return value is ${bytes} bytes as JSON; at most ${MAX_RESULT_BYTES} are allowed` };
  return json;
}

// ---- failing ------------------------------------------------------------------------------------------------------

// Everything about a thrown value may itself throw: getters, proxies, patched prototypes.
function guarded(read, otherwise) {
  try {
    const text = read();
    // By way of bytes, so that no lone surrogate gets into a frame.
    return typeof text === 'string' ? bytesOf(text.length > MAX_TRACEBACK ? `${text.slice(0, MAX_TRACEBACK)}…` : text).toString() : otherwise;
  } catch {
    return otherwise;
  }
}

const summary = (error) => {
  const { name, message } = describe(error);
  return message ? `${name}: ${message}` : name;
};

function describe(error) {
  if (error === null || (typeof error !== 'object' && typeof error !== 'function')) {
    return { name: error === null ? 'null' : typeof error, message: guarded(() => toText(error), '') };
  }
  return { name: guarded(() => error.name, 'Error'), message: guarded(() => error.message, '') };
}

// As Node shows an uncaught exception, without the frames of Node and of this file below the user's own.
function traceback(error) {
  const { name, message } = describe(error);
  if (!guarded(() => isNativeError(error) || error instanceof Error ? 'yes' : 'no', 'yes').startsWith('y')) {
    return guarded(() => `Uncaught ${inspect(error)}`, `Uncaught ${name}`);
  }
  trim(error, 0);
  const stack = guarded(() => error.stack, '');
  const shown = stack.length > MAX_TRACEBACK ? stack : guarded(() => inspect(error, { customInspect: false, depth: 5 }), stack || `${name}: ${message}`);
  return guarded(() => excerpt(stack) + shown.replace(TAIL, ''), shown);
}

// Frames of Node and of this file with which a stack ends.
const TAIL = new RegExp(`(?:\\n +at [^\\n]{0,300}?(?:node:|${__filename.replace(/\W/g, '\\$&')})[^\\n]{0,300}?)+(?= \\{\\n|\\n(?! +at )|$)`, 'g');

// Before inspect() looks: it folds the frames that an error and its cause have in common.
function trim(error, depth) {
  if (depth > 5 || !isNativeError(error)) return;
  try {
    const kept = error.stack.length > MAX_TRACEBACK ? '' : error.stack.replace(TAIL, '');
    if (kept.includes('\n    at ')) error.stack = kept; // without any frame it would be shown in brackets
    trim(error.cause, depth + 1);
    for (const part of error.errors ?? []) trim(part, depth + 1);
  } catch {
    // Frozen, or not what it seems: then it is shown as it is.
  }
}

// The source line of the first frame that isn't Node's, with a caret. A SyntaxError brings its own.
function excerpt(stack) {
  const frame = /^[^\S\n]+at (?:[^\n]* )?\(?(?!node:)([^\s()]+):(\d+):(\d+)\)?$/m.exec(stack);
  if (!frame || /^\S+:\d+\n/.test(stack)) return '';
  const [, where, line, column] = frame;
  let source = code;
  if (where !== NAME) {
    const path = where.startsWith('file://') ? require('url').fileURLToPath(where) : where;
    if (path === __filename || !fs.statSync(path, { throwIfNoEntry: false })?.isFile()) return '';
    source = readFileSync(path, 'utf8');
  }
  const text = source.split(/\r\n|[\n\r\u2028\u2029]/)[line - 1];
  if (text === undefined || text.length > 500) return `${where}:${line}\n\n`;
  return `${where}:${line}\n${text}\n${text.slice(0, column - 1).replace(/\S/g, ' ')}^\n\n`;
}

function fail(kind, name, message, trace) {
  try {
    send('E', stringify({ __proto__: null, kind, name, message, traceback: trace }));
    writeAll(2, bytesOf(`${trace || message}\n`));
  } catch {
    // The channel or stderr is closed: the exit code is all that is left to say it with.
  }
  exit(1);
}

function failWith(error) {
  const { name, message } = describe(error);
  fail('exception', name, message, traceback(error));
}

// ---- loading the code ---------------------------------------------------------------------------------------------

// A module of the user's that isn't on disk: its require and import() are the real ones, as seen from `file`.
function makeMain() {
  const main = new Module('.', null);
  main.filename = file;
  main.paths = Module._nodeModulePaths(folder);
  delete require.cache[__filename];
  process.mainModule = main; // what require.main is
  const [require_, import_] = main._compile('return [require, (name, options) => import(name, options)]', file);
  return { main, require_, import_ };
}

async function load(specifier, attributes) {
  try {
    return await import_(specifier, { with: attributes, assert: attributes });
  } catch (error) {
    if (error instanceof SyntaxError && /^\.{0,2}\//.test(specifier) && !/^\S+:\d+\n/.test(error.stack)) {
      const path = require('path').resolve(folder, specifier);
      try {
        locate(error, readFileSync(path, 'utf8'), path);
      } catch {
        // It was a file behind that one.
      }
    }
    throw error;
  }
}
const importDynamically = (specifier, _referrer, attributes) => load(specifier, attributes);

// A top-level `handler` that is not exported is picked up by a line after the code: as an extra argument of the
// CommonJS wrapper, as an export with an impossible name.
const CAPTURE_IN_SCRIPT = '\n;arguments[5]?.(typeof handler === "undefined" ? undefined : handler)';
const CAPTURED = '\0handler';
const CAPTURE_IN_MODULE = '\n;export { handler as "\\0handler" }';

const makeScript = (source, lineOffset = 0) => vm.compileFunction(source, ['exports', 'require', 'module', '__filename', '__dirname'], {
  filename: NAME, lineOffset, importModuleDynamically: importDynamically,
});
const makeAsyncScript = (source) => makeScript(`return (async () => {\n${source}\n})()`, -1);

function makeModule(source, identifier = NAME) {
  const warn = process.emitWarning;
  process.emitWarning = () => {}; // that vm modules are experimental concerns us, not the user
  try {
    return new vm.SourceTextModule(source, {
      identifier,
      importModuleDynamically: importDynamically,
      initializeImportMeta(meta) {
        Object.assign(meta, { dirname: folder, filename: file, url: require('url').pathToFileURL(file).href });
      },
    });
  } finally {
    process.emitWarning = warn;
  }
}

// Where a module's SyntaxError is, V8 tells only in the exception's message. The inspector gets to see that one.
function locate(error, source, identifier) {
  const session = new (require('inspector').Session)();
  session.connect();
  globalThis.makeModule = () => makeModule(source, identifier);
  session.post('Runtime.evaluate', { expression: 'makeModule()', silent: true }, (_, { exceptionDetails: at }) => {
    if (at) error.stack = excerpt(`    at ${identifier}:${at.lineNumber + 1}:${at.columnNumber + 1}`) + error.stack;
  });
  delete globalThis.makeModule;
  session.disconnect();
}

// The unchanged code is compiled first, so that no error shows a line of ours and none is mended by it.
function compile(make, capture) {
  const plain = make(code);
  if (mode === 'script' || !/\bhandler\b/.test(code)) return plain;
  try {
    return make(code + capture);
  } catch {
    return plain;
  }
}

// CommonJS; then CommonJS with top-level await, which Node lacks but people write; then an ES module.
function compileCode() {
  let failure;
  try {
    const script = compile(makeScript, CAPTURE_IN_SCRIPT);
    // `await (…)` also parses as the call of a function `await`. A static block, where that name is reserved, tells.
    if (!/\bawait\s*[^\s\w$]/.test(code)) return { script };
    try {
      makeScript(`class _ { static {\n${code}\n} }`);
      return { script };
    } catch (error) {
      if (error.message !== 'Unexpected reserved word') return { script };
    }
    try { return { script: compile(makeAsyncScript, CAPTURE_IN_SCRIPT) }; } catch { return { script }; }
  } catch (error) {
    failure = error;
  }
  if (!(failure instanceof SyntaxError)) throw failure;
  if (/^await is only valid|^Unexpected reserved word/.test(failure.message)) {
    try { return { script: compile(makeAsyncScript, CAPTURE_IN_SCRIPT) }; } catch { /* not that either */ }
  }
  try {
    return { module: compile(makeModule, CAPTURE_IN_MODULE) };
  } catch (error) {
    const moduleOnly = /import statement outside|'import\.meta' outside|^Unexpected token 'export'|^await is only valid|^Unexpected reserved word/;
    if (!moduleOnly.test(failure.message) || error.message === 'Unexpected reserved word') throw failure;
    locate(error, code, NAME);
    throw error;
  }
}

// Static imports go through the real loader, one after the other as their evaluation order demands.
async function link(module) {
  let last = Promise.resolve();
  await module.link((specifier, _referrer, extra) => {
    last = last.then(async () => {
      const namespace = await load(specifier, extra.attributes ?? extra.assert);
      const names = Object.getOwnPropertyNames(namespace);
      return new vm.SyntheticModule(names, function () {
        for (const name of names) this.setExport(name, namespace[name]);
      }, { identifier: specifier });
    });
    return last;
  });
}

// Runs the top level; what it returns are the candidates for the handler, the best first.
async function evaluate() {
  compiled = compileCode(); // kept: with it Node would collect what import() needs
  if (compiled.module) {
    await link(compiled.module);
    await compiled.module.evaluate();
    const { namespace } = compiled.module;
    const fallback = namespace.default;
    const isClass = typeof fallback === 'function' && execute(/^class\b/, sourceOf(fallback));
    return [namespace.handler, namespace[CAPTURED], fallback?.handler, isClass ? undefined : fallback, globalThis.handler];
  }
  let captured;
  const { main, require_ } = user;
  const done = compiled.script.call(main.exports, main.exports, require_, main, file, folder, (handler) => { captured = handler; });
  if (types.isPromise(done)) await done;
  main.loaded = true;
  return [main.exports?.handler, captured, globalThis.handler];
}

// ---- the run ------------------------------------------------------------------------------------------------------

let waiting = 'the top-level await'; // for what, should the event loop run dry
async function run() {
  let candidates;
  try {
    candidates = await evaluate();
  } catch (error) {
    waiting = null;
    nextTick(() => { throw error; }); // to Node, whose uncaughtException listeners come first
    return;
  }
  waiting = null;
  if (mode === 'script') return;

  let handler;
  for (let i = 0; i < candidates.length && !handler; i++) if (typeof candidates[i] === 'function') handler = candidates[i];
  if (!handler) {
    if (mode === 'auto') return;
    fail('handler_missing', 'HandlerMissing', 'the code defines no handler: write `function handler(event, context) { … }` at its top level, '
      + '`exports.handler = …` (CommonJS) or `export const handler = …` (ES module)', '');
  }

  let result;
  waiting = 'the handler\'s promise';
  try {
    result = await handler(event, context);
  } catch (error) {
    failWith(error);
  }
  waiting = null;
  let json;
  try {
    json = serialize(result);
  } catch ({ message, error }) {
    fail('return_value', 'ReturnValueError', message, error === undefined ? '' : traceback(error));
  }
  send('R', json);
  exit(); // as AWS Lambda: timers and sockets left open don't hold up the answer
}

const request = readRequest();
const { code, mode } = request;
const event = mode === 'script' ? undefined : parse(request.event);
const deadline = BigInt(request.deadline_ns);
const context = {
  awsRequestId: request.execution_id,
  functionName: request.function_name,
  getRemainingTimeInMillis() {
    const left = toNumber((deadline - now()) / 1000000n);
    return left > 0 ? left : 0;
  },
};
const channel = openChannel();
closeSync(REQUEST_FD);

prepareOutput('stdout');
prepareOutput('stderr');
process.argv.splice(1, process.argv.length, file);
process.execArgv = [];
process.on('uncaughtExceptionMonitor', (error) => {
  if (!listenerCount('uncaughtException') && !hasCapture()) failWith(error);
});
process.on('beforeExit', () => {
  if (waiting) fail('exception', 'Error', `${waiting} never settled: nothing is left to wait for`, '');
});

const user = makeMain();
const { import_ } = user;
let compiled;
run();
