// What a run finds, as values that are the same in every run that finds them untouched: the language's objects, the
// modules, the process, the sandbox.
const names = Object.getOwnPropertyNames(globalThis).sort();
const fs = require('fs');

function text(path) {
  try {
    return fs.readFileSync(path, 'utf8');
  } catch (error) {
    return error.code;
  }
}

// A value without what is another one in each run.
function named(value) {
  if (typeof value === 'function') {
    const source = Function.prototype.toString.call(value);
    return `function ${value.name} ${value.length} ${source.length}`;
  }
  return value === null || typeof value === 'object' ? Object.prototype.toString.call(value) : typeof value;
}

function members(object) {
  const found = {};
  for (const key of Reflect.ownKeys(object)) {
    const property = Object.getOwnPropertyDescriptor(object, key);
    found[String(key)] = property.get ? `get ${named(property.get)}` : named(property.value);
  }
  return found;
}

function language() {
  const found = {};
  for (const name of names) {
    const property = Object.getOwnPropertyDescriptor(globalThis, name);
    found[name] = property.get ? `get ${property.get.name}` : named(property.value);
    // Web interfaces are loaded when they are asked for.
    if (typeof property.value !== 'function' || !/^[A-Z]/.test(name)) continue;
    found[`${name}.`] = members(property.value);
    if (property.value.prototype) found[`${name}.prototype`] = members(property.value.prototype);
  }
  for (const object of [Math, JSON, Reflect, Atomics, console]) found[String(object)] = members(object);
  return found;
}

function modules() {
  const found = {};
  for (const name of ['fs', 'path', 'os', 'crypto', 'child_process', 'events', 'util', 'http', 'net', 'timers', 'vm']) {
    found[name] = members(require(name));
  }
  const { Module } = require('module');
  found.Module = members(Module);
  found.extensions = Object.keys(Module._extensions).map((name) => `${name} ${named(Module._extensions[name])}`);
  found.cache = Object.keys(require.cache);
  return found;
}

function settings() {
  return {
    exitCode: String(process.exitCode),
    title: process.title,
    argv: process.argv,
    execArgv: process.execArgv,
    execPath: process.execPath,
    env: { ...process.env },
    cwd: process.cwd(),
    umask: process.umask(),
    versions: process.versions,
    listeners: process.eventNames().map((name) => `${String(name)} ${process.listenerCount(name)}`).sort(),
    resources: process.getActiveResourcesInfo(),
    streams: [process.stdout, process.stderr].map((stream) => [
      stream.constructor.name, stream.fd, stream.isTTY, stream.eventNames().map(String), named(stream.write),
    ]),
    stack: [Error.stackTraceLimit, typeof Error.prepareStackTrace],
    defaults: [
      require('events').defaultMaxListeners, Buffer.poolSize, JSON.stringify(require('util').inspect.defaultOptions),
      String(require('http').globalAgent.maxSockets), String(require('dns').getServers()), require('net').getDefaultAutoSelectFamily(),
    ],
    arithmetic: [3 + 4, [3, 1, 2].sort(), JSON.stringify({ a: [1] }), `${{}}`, typeof Symbol.for('poisoned').description],
    heap: require('v8').getHeapStatistics().heap_size_limit,
    ids: [process.getuid(), process.getgid(), process.getgroups(), process.ppid],
    uptime: process.uptime() < 60,
  };
}

function inside() {
  const status = Object.fromEntries(text('/proc/self/status').split('\n').map((line) => line.split(/:\s*/)));
  const shown = 'Name Umask Uid Gid Groups SigBlk SigIgn SigCgt CapEff CapBnd NoNewPrivs Seccomp Cpus_allowed'.split(' ');
  // What they lead to, in whatever order they were opened; input may be a pipe or none at all.
  const descriptors = [];
  for (const number of fs.readdirSync('/proc/self/fd').filter((number) => number !== '0')) {
    try {
      const target = fs.readlinkSync(`/proc/self/fd/${number}`).replace(/\[.*/, '');
      const info = text(`/proc/self/fdinfo/${number}`).match(/flags:\s*(\d+)/);
      descriptors.push(`${number < 3 ? number : ''} ${target} ${info ? info[1] : ''}`);
    } catch {
      // That of the listing itself.
    }
  }
  const pids = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return {
    status: Object.fromEntries(shown.map((name) => [name, status[name]])),
    limits: text('/proc/self/limits'),
    descriptors: descriptors.sort(),
    tasks: fs.readdirSync('/proc/self/task').map((task) => text(`/proc/self/task/${task}/comm`)).sort(),
    processes: pids.map((pid) => text(`/proc/${pid}/comm`)).sort(),
    scheduling: [require('os').getPriority(), require('os').availableParallelism()],
    input: fs.readFileSync(0, 'utf8'),
    tmp: fs.readdirSync('/tmp'),
    shm: fs.readdirSync('/dev/shm'),
    workspace: fs.readdirSync('/workspace').sort(),
    ports: ['tcp', 'tcp6', 'udp', 'udp6'].map((name) => text(`/proc/net/${name}`).split('\n').length),
    host: require('os').hostname(),
    oom: text('/proc/self/oom_score_adj'),
  };
}

exports.handler = () => ({ language: language(), modules: modules(), settings: settings(), inside: inside() });
