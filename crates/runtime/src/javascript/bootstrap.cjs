// The program by which user JavaScript runs in the sandbox: `node --experimental-vm-modules bootstrap.cjs`.
//
// It reads the request (fd 4), compiles the code as CommonJS or else as an ES module, named `main.mjs` in the working
// directory, calls its handler if there is one, and writes at most one frame to the result channel (fd 3). The
// layouts are specified in protocol.rs. Started ahead of its request, which then comes by pipe, it first does all that
// doesn't depend on one; see the end.
//
// User code shares this process and may redefine whatever it can reach. So what delivers a return value is taken hold
// of before that runs. Nothing here is a boundary: a program can at worst misreport itself.
'use strict';

const fs = require('fs');
const vm = require('vm');
const Module = require('module');
const { inspect, types } = require('util');

const { closeSync, fstatSync, openSync, readFileSync, readSync, writeSync } = fs;
const { isBigIntObject, isNativeError, isNumberObject, isStringObject } = types;
const { parse, stringify } = JSON;
const { isArray } = Array;
const { allocUnsafe, byteLength, from: bytesOf } = Buffer;
const { nextTick } = process;
const now = process.hrtime.bigint;
const toNumber = Number;
const toText = String;
const sleep = Atomics.wait;
const pause = () => sleep(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // a millisecond
const sinceStart = process.uptime.bind(process);
const exit = process.exit.bind(process);
const listenerCount = process.listenerCount.bind(process);
const hasCapture = process.hasUncaughtExceptionCaptureCallback.bind(process);
const match = Function.prototype.call.bind(RegExp.prototype.exec);
const sourceOf = Function.prototype.call.bind(Function.prototype.toString);

const RESULT_FD = 3;
const REQUEST_FD = 4;
const MAX_RESULT_BYTES = 10 * 1024 * 1024;
const MAX_DEPTH = 128;
const EAFNOSUPPORT = 97;
const MAX_TEXT = 64 * 1024; // characters of an error's name, message, traceback

const NAME = 'main.mjs';
let folder = process.cwd(); // where the code is as if it were
let file;
let code, mode, event, context; // the request

// ---- request, result, output ----

// A sealed file, whose offset may be anywhere, or a pipe until its end.
function readToEnd() {
  const state = fstatSync(REQUEST_FD);
  const isPipe = state.isFIFO();
  let bytes = allocUnsafe(isPipe ? 64 * 1024 : state.size + 1); // one more: to see the end
  for (let at = 0; ;) {
    if (at === bytes.length) {
      const shorter = bytes;
      bytes = allocUnsafe(2 * at);
      shorter.copy(bytes);
    }
    try {
      const n = readSync(REQUEST_FD, bytes, at, bytes.length - at, isPipe ? null : at);
      if (n === 0) return bytes.subarray(0, at);
      at += n;
    } catch ({ code: why, message }) {
      if (why === 'EAGAIN') pause();
      else if (why !== 'EINTR') throw new Error(message);
    }
  }
}

function requestIn(request) {
  if (request.toString('latin1', 0, 4) !== 'SBX1') throw new Error('not a request');
  let end = 4;
  const section = () => {
    const start = end + 4;
    end = start + request.readUInt32LE(end);
    if (end > request.length) throw new Error('the request is cut short');
    return request.toString('utf8', start, end);
  };
  return { ...parse(section()), code: section(), event: section() };
}

// Node can't dup, but opening the pipe anew gives another descriptor, close-on-exec: whoever closes or writes to 3 then
// doesn't hit it. That fails where the pipe is another user's or /proc is missing; then 3, which Node has marked
// close-on-exec at its start as well, has to do.
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
      pause();
    }
  }
}

function frameOf(kind, json) {
  const frame = bytesOf(`SBXR${kind}\0\0\0\0${json}`);
  for (let i = 0; i < 4; i++) frame[5 + i] = (frame.length - 9) >>> (8 * i);
  return frame;
}

let sent = false;
function send(kind, json) {
  if (sent) return;
  sent = true;
  writeAll(channel, frameOf(kind, json));
}

// Pipes have to be written synchronously, or process.exit() loses what Node still holds; and a closed one is no reason
// to die. A stream is made when it is first asked for, so this waits until then and takes itself away.
function prepareOutput(name) {
  const original = Object.getOwnPropertyDescriptor(process, name);
  const get = () => {
    Object.defineProperty(process, name, original);
    const stream = process[name];
    stream._handle?.setBlocking?.(true);
    stream.on('error', () => {});
    return stream;
  };
  Object.defineProperty(process, name, { ...original, get });
}

// There are no netlink sockets in a sandbox to ask for interfaces by; it has its loopback and no other.
function prepareInterfaces() {
  const os = require('os');
  const { networkInterfaces } = os;
  os.networkInterfaces = () => {
    try {
      return networkInterfaces();
    } catch (error) {
      if (error.errno !== EAFNOSUPPORT && error.errno !== -EAFNOSUPPORT) throw error;
      const [mac, internal, all] = ['00:00:00:00:00:00', true, Array(8).fill('ffff').join(':')];
      return {
        lo: [
          { address: '127.0.0.1', netmask: '255.0.0.0', family: 'IPv4', mac, internal, cidr: '127.0.0.1/8' },
          { address: '::1', netmask: all, family: 'IPv6', mac, internal, cidr: '::1/128', scopeid: 0 },
        ],
      };
    }
  };
}

// The code is in no file that another thread or process could load, so one that the program starts from `__filename` loads
// a stand-in. Only code that may do so pays for it.
function prepareStandIn() {
  if (!/\b(?:Worker|fork)\b/.test(code)) return;
  const { href } = require('url').pathToFileURL(file);
  let standIn;
  const replaced = (source) => {
    if (source !== file && source?.href !== href) return source;
    return standIn ??= writeStandIn();
  };
  const threads = require('worker_threads');
  threads.Worker = class Worker extends threads.Worker {
    constructor(source, options) { super(replaced(source), options); }
  };
  const children = require('child_process');
  const { fork } = children;
  children.fork = (source, ...rest) => fork(replaced(source), ...rest); // cluster calls this one too
}

// Outside of the workspace. CommonJS is compiled as if it were in its place; an ES module can't be.
function writeStandIn() {
  const place = fs.mkdtempSync(require('path').join(require('os').tmpdir(), 'main-'));
  const [name, text] = compiled.module ? [NAME, code] : ['main.cjs', `
    module.filename = ${stringify(file)};
    module.paths = module.constructor._nodeModulePaths(${stringify(folder)});
    module._compile(${stringify(code)}, module.filename);
  `];
  fs.writeFileSync(`${place}/${name}`, text);
  return `${place}/${name}`;
}

// ---- the return value ----

const UNFIT = [
  [types.isMap, 'Map'], [types.isSet, 'Set'], [types.isWeakMap, 'WeakMap'], [types.isWeakSet, 'WeakSet'],
  [types.isPromise, 'Promise (not awaited)'],
];
const isIllFormed = (text) => match(/\p{Surrogate}/u, text) !== null;

// JSON.stringify drops or rewrites what JSON can't hold. Its replacer sees every value once, after getters and toJSON,
// and refuses instead. `holders` and `path` lead to the value in hand; at 0 they have the wrapper of the whole.
function serialize(result) {
  const holders = [];
  const path = [];
  let size = 0; // at most four times the bytes so far: stops what is small in memory and without end as JSON
  let refusal;

  const refuse = (depth, why) => {
    let where = '$';
    for (let i = 1; i <= depth; i++) {
      if (isArray(holders[i])) where += `[${path[i]}]`;
      else where += match(/^[A-Za-z_$][\w$]*$/, path[i]) ? `.${path[i]}` : `[${stringify(path[i])}]`;
    }
    throw refusal = `the return value can't be written as JSON: ${where} ${why}`;
  };
  const tooLarge = (bytes) => `the return value is ${bytes} bytes as JSON; at most ${MAX_RESULT_BYTES} are allowed`;

  function check(key, value) {
    let depth = holders.length - 1;
    while (depth >= 0 && holders[depth] !== this) depth--;
    if (depth < 0) depth = holders.length;
    holders.length = depth + 1;
    holders[depth] = this;
    path[depth] = key;

    if (isNumberObject(value)) value = toNumber(value);
    else if (isStringObject(value)) value = toText(value);
    size += typeof value === 'string' ? value.length + 8 : 8;
    if (size > 4 * MAX_RESULT_BYTES) throw refusal = tooLarge(`more than ${MAX_RESULT_BYTES}`);
    if (isIllFormed(key)) refuse(depth, 'has a key with a lone surrogate, which UTF-8 can\'t hold');
    if (typeof value === 'string') {
      if (isIllFormed(value)) refuse(depth, 'is a string with a lone surrogate, which UTF-8 can\'t hold');
    } else if (typeof value === 'number') {
      if (value - value !== 0) refuse(depth, `is ${value}`);
    } else if (typeof value === 'bigint' || isBigIntObject(value)) {
      refuse(depth, 'is a BigInt');
    } else if (typeof value === 'function' || typeof value === 'symbol') {
      refuse(depth, `is a ${typeof value}`);
    } else if (typeof value === 'object' && value !== null) {
      for (let i = 0; i < UNFIT.length; i++) if (UNFIT[i][0](value)) refuse(depth, `is a ${UNFIT[i][1]}`);
      for (let i = 1; i <= depth; i++) if (holders[i] === value) refuse(depth, 'refers back to what contains it');
      if (depth >= MAX_DEPTH) refuse(depth, `is nested more than ${MAX_DEPTH} levels deep`);
    }
    return value;
  }

  try {
    const json = stringify(result, check) ?? 'null';
    const bytes = byteLength(json);
    return bytes > MAX_RESULT_BYTES ? { refusal: tooLarge(bytes) } : { json };
  } catch (error) {
    if (refusal) return { refusal };
    const { name, message, traceback } = describe(error);
    return { refusal: `the return value can't be written as JSON: reading it threw ${name}: ${message}`, traceback };
  }
}

// ---- failing ----

// Anything about a thrown value may itself throw: getters, proxies, patched prototypes. The way over bytes keeps lone
// surrogates out of the frame.
function guarded(read, otherwise) {
  try {
    const text = read();
    if (typeof text !== 'string') return otherwise;
    return bytesOf(text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text).toString();
  } catch {
    return otherwise;
  }
}

function describe(error) {
  if (!guarded(() => (isNativeError(error) || error instanceof Error ? 'error' : ''), 'error')) {
    const name = error === null ? 'null' : typeof error;
    const shown = guarded(() => inspect(error), name);
    const message = name === 'object' ? shown : guarded(() => toText(error), shown);
    return { name, message, traceback: `Uncaught ${shown}` };
  }
  const name = guarded(() => error.name, 'Error');
  const message = guarded(() => error.message, '');
  return { name, message, traceback: traceback(error, `${name}: ${message}`) };
}

// As Node shows an uncaught exception, but without the frames of Node and of this file with which a stack ends.
const TAIL = new RegExp(
  `(?:\\n +at [^\\n]{0,300}?(?:node:|${__filename.replace(/\W/g, '\\$&')})[^\\n]{0,300}?)+(?= \\{\\n|\\n(?! +at )|$)`,
  'g',
);
function traceback(error, otherwise) {
  trim(error, 0);
  const stack = guarded(() => error.stack, otherwise);
  if (stack.length > MAX_TEXT) return stack;
  const shown = guarded(() => inspect(error, { customInspect: false, depth: 5 }), stack);
  return guarded(() => excerpt(stack) + shown.replace(TAIL, ''), shown);
}

// Before inspect() looks, which folds the frames that an error and its cause have in common.
function trim(error, depth) {
  if (depth > 5 || !isNativeError(error)) return;
  try {
    const kept = error.stack.length > MAX_TEXT ? '' : error.stack.replace(TAIL, '');
    if (kept.includes('\n    at ')) error.stack = kept; // without any frame it would be shown in brackets
    trim(error.cause, depth + 1);
    for (const part of error.errors ?? []) trim(part, depth + 1);
  } catch {
    // Frozen, or not what it seems: then it is shown as it is.
  }
}

// The source line of the first frame that isn't Node's, with a caret. Most SyntaxErrors bring their own.
const hasExcerpt = (stack) => /^\S+:\d+\n/.test(stack);
function excerpt(stack) {
  const frame = /^[^\S\n]+at (?:[^\n]* )?\(?(?!node:)([^\s()]+):(\d+):(\d+)\)?$/m.exec(stack);
  if (!frame || hasExcerpt(stack)) return '';
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

function fail(kind, name, message, trace = '') {
  // Either may be closed; the exit code says it still.
  try { send('E', stringify({ __proto__: null, kind, name, message, traceback: trace })); } catch { /* see above */ }
  try { writeAll(2, bytesOf(`${trace || message}\n`)); } catch { /* see above */ }
  exit(1);
}

function failWith(error) {
  const { name, message, traceback: trace } = describe(error);
  fail('exception', name, message, trace);
}

// ---- loading ----

// The user's main module, which isn't on disk. Its require() and import() are Node's own, as seen from `file`.
function makeMain() {
  const main = new Module('.', null);
  main.filename = file;
  main.paths = Module._nodeModulePaths(folder);
  delete require.cache[__filename];
  process.mainModule = main; // what require.main is
  const [requireFrom, importFrom] = main._compile('return [require, (name, options) => import(name, options)]', file);
  return { main, requireFrom, importFrom };
}

let main, requireFrom, importFrom;
async function load(specifier, attributes) {
  try {
    return await importFrom(specifier, { with: attributes, assert: attributes });
  } catch (error) {
    if (error instanceof SyntaxError && /^\.{0,2}\//.test(specifier) && !hasExcerpt(error.stack)) {
      const path = require('path').resolve(folder, specifier);
      try { locate(error, readFileSync(path, 'utf8'), path); } catch { /* it stays without its place */ }
    }
    throw error;
  }
}
const importModuleDynamically = (specifier, _referrer, attributes) => load(specifier, attributes);

// A top-level `handler` that isn't exported is picked up by a line after the code: by way of an extra argument to the
// CommonJS wrapper, or as an export under a name that no one has.
const CAPTURE_IN_SCRIPT = '\n;arguments[5]?.(typeof handler === "undefined" ? undefined : handler)';
const CAPTURE_IN_MODULE = '\n;export { handler as "\\0handler" }';
const CAPTURED = '\0handler';

const WRAPPER = ['exports', 'require', 'module', '__filename', '__dirname'];
const makeScript = (source, lineOffset = 0) =>
  vm.compileFunction(source, WRAPPER, { filename: NAME, lineOffset, importModuleDynamically });
const makeAsyncScript = (source) => makeScript(`return (async () => {\n${source}\n})()`, -1);

function makeModule(source, identifier = NAME) {
  const warn = process.emitWarning;
  process.emitWarning = () => {}; // that vm modules are experimental is our concern, not the user's
  try {
    const initializeImportMeta = (meta) => {
      Object.assign(meta, { dirname: folder, filename: file, url: require('url').pathToFileURL(file).href });
    };
    return new vm.SourceTextModule(source, { identifier, importModuleDynamically, initializeImportMeta });
  } finally {
    process.emitWarning = warn;
  }
}

// The place of a module's SyntaxError is known to V8's message about it only, and that is shown to the inspector.
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

// The code as it is comes first, so that no error shows a line of ours and no line of ours mends it.
function compile(make, capture) {
  const plain = make(code);
  if (mode === 'script' || !/\bhandler\b/.test(code)) return plain;
  try { return make(code + capture); } catch { return plain; }
}

// `await (…)` also parses as the call of a function `await`. A static block, where that name is reserved, tells.
function awaitsAtTopLevel() {
  if (!/\bawait\s*[^\s\w$]/.test(code)) return false;
  try {
    makeScript(`class _ { static {\n${code}\n} }`);
    return false;
  } catch ({ message }) {
    return message === 'Unexpected reserved word';
  }
}

// CommonJS; CommonJS with top-level await, which Node doesn't know but people write; an ES module.
function compileCode() {
  let script, failure;
  try {
    script = compile(makeScript, CAPTURE_IN_SCRIPT);
    if (!awaitsAtTopLevel()) return { script };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    failure = error;
  }
  if (script || /^await is only valid|^Unexpected reserved word/.test(failure.message)) {
    try { return { script: compile(makeAsyncScript, CAPTURE_IN_SCRIPT) }; } catch { if (script) return { script }; }
  }
  try {
    return { module: compile(makeModule, CAPTURE_IN_MODULE) };
  } catch (error) {
    // The module's error counts if the script's was only about what a script can't have.
    const moduleOnly = /(import statement|'import\.meta') outside|token 'export'|^await is only|reserved word$/;
    if (!moduleOnly.test(failure.message) || error.message === 'Unexpected reserved word') throw failure;
    locate(error, code, NAME);
    throw error;
  }
}

// Static imports come through Node's loader, one after the other as they are to be evaluated.
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

// Runs the top level. What it returns are the candidates for the handler, the best first.
let compiled; // kept, for old Nodes lose import() with the function that was compiled
async function evaluate() {
  compiled = compileCode();
  if (compiled.module) {
    await link(compiled.module);
    await compiled.module.evaluate();
    const { namespace } = compiled.module;
    const other = namespace.default;
    const isClass = typeof other === 'function' && match(/^class\b/, sourceOf(other));
    return [namespace.handler, namespace[CAPTURED], other?.handler, isClass ? undefined : other, globalThis.handler];
  }
  let captured;
  const capture = (handler) => { captured = handler; };
  await compiled.script.call(main.exports, main.exports, requireFrom, main, file, folder, capture);
  main.loaded = true;
  return [main.exports?.handler, captured, globalThis.handler];
}

// ---- the run ----

let waiting = 'the top-level await'; // for what, should the event loop run dry
async function run() {
  let candidates;
  try {
    candidates = await evaluate();
  } catch (error) {
    waiting = null;
    nextTick(() => { throw error; }); // to Node, whose uncaughtException listeners go first
    return;
  }
  waiting = null;
  if (mode === 'script') return;

  let i = 0;
  while (i < candidates.length && typeof candidates[i] !== 'function') i++;
  const handler = candidates[i];
  if (!handler && mode === 'auto') return;
  if (!handler) {
    fail('handler_missing', 'HandlerMissing', 'the code defines no handler: write `function handler(event, context) { … }`'
      + ' at its top level, `exports.handler = …` (CommonJS) or `export const handler = …` (ES module)');
  }

  waiting = 'the handler\'s promise';
  let result;
  try {
    result = await handler(event, context);
  } catch (error) {
    failWith(error);
  }
  waiting = null;
  const { json, refusal, traceback: trace } = serialize(result);
  if (refusal) fail('return_value', 'ReturnValueError', refusal, trace);
  send('R', json);
  exit(); // as in AWS Lambda, what is still open doesn't hold up the answer
}

// What depends on the request and comes before its code.
function take(request) {
  folder = process.cwd();
  file = folder === '/' ? `/${NAME}` : `${folder}/${NAME}`;
  ({ code, mode } = request);
  event = mode === 'script' ? undefined : parse(request.event);
  const deadline = BigInt(request.deadline_ns);
  context = {
    awsRequestId: request.execution_id,
    functionName: request.function_name,
    getRemainingTimeInMillis() {
      const left = toNumber((deadline - now()) / 1000000n);
      return left > 0 ? left : 0;
    },
  };
  ({ main, requireFrom, importFrom } = makeMain());
  prepareStandIn();
  process.argv.splice(1, process.argv.length, file);
}

function listen() {
  process.on('uncaughtExceptionMonitor', (error) => {
    if (main && listenerCount('uncaughtException') === 0 && !hasCapture()) failWith(error);
  });
  process.on('beforeExit', () => {
    if (waiting) fail('exception', 'Error', `${waiting} never settled: nothing is left to wait for`);
  });
}

function start() {
  const bytes = readToEnd();
  closeSync(REQUEST_FD);
  if (ahead && bytes.length === 0) process.reallyExit(0); // it isn't needed any more
  const request = requestIn(bytes);
  if (ahead) catchUp(request);
  take(request);
  run();
}

// ---- started ahead ----

// What any first program would wait for is done once before: V8 compiles a function, and Node makes a stream or its
// loader, when it is first needed. Of Node's modules only what `import 'fs'` needs: to load others costs every program
// as much as it saves those that want them. Nothing stays in what a program can see, save performance.timeOrigin, which
// is the process's own: that clock can't be set, and what it marks would disagree if only its readers were.
const REHEARSAL = [
  'exports.handler = async (event, context) => ({ event, left: context.getRemainingTimeInMillis() })',
  'await (0); function handler(event) { return [event] }',
  'import "node:path"; export const handler = async (event) => event',
];

async function rehearse() {
  require('fs/promises');
  for (const sample of REHEARSAL) {
    const sections = ['{"mode": "auto", "deadline_ns": "0"}', sample, '{"list": [1, 2.5, null, {"flag": true}]}'];
    const text = sections.map((section) => `${String.fromCharCode(section.length)}\0\0\0${section}`).join('');
    const request = requestIn(bytesOf(`SBX1${text}`, 'latin1'));
    catchUp(request);
    take(request);
    const handler = (await evaluate()).find((candidate) => typeof candidate === 'function');
    frameOf('R', serialize(await handler(event, context)).json);
  }
  describe(new TypeError('rehearsed'));
  const nothing = () => 0;
  const stdout = { write: nothing, once: nothing, removeListener: nothing, listenerCount: nothing };
  new console.Console({ stdout }).log('text', 1, event);
  compiled = main = undefined;
}

// The environment and the working directory as they would have been at a cold start, and the time of the start itself.
// What was mounted on the folder since is entered only now.
function catchUp({ env = {} }) {
  process.chdir(folder);
  Object.assign(process.env, env);
  if (env.HOME !== undefined) Module._initPaths();
  const waited = sinceStart();
  process.uptime = function uptime() { return sinceStart() - waited; };
}

const ahead = fstatSync(REQUEST_FD).isFIFO();
prepareOutput('stdout');
prepareOutput('stderr');
// While 3 is taken: libuv keeps a descriptor of its own from the first stream on.
if (ahead) for (const stream of [process.stdout, process.stderr]) stream.write('');
const channel = openChannel(); // while 4 is taken, so that the new number is neither
prepareInterfaces();
process.execArgv = [];
listen();
if (ahead) {
  // The program starts in a turn of its own, as a main module does: its ticks come before its promises' reactions.
  rehearse().then(() => setImmediate(() => {
    writeAll(channel, bytesOf('SBXA'));
    start();
  }));
} else {
  start();
}
