// What a run can leave behind, in one: the language's objects, the modules, the process, the sandbox. With `lethal` it
// also signals every process and writes into every descriptor.
const fs = require('fs');
const { spawn } = require('child_process');
const { once } = require('events');
const noisy = () => fs.writeSync(2, 'of the poisoner\n');

function language() {
  globalThis.poisoned = 1;
  Object.prototype.poisoned = 1;
  Array.prototype.sort = Array.prototype.flat = () => ['poisoned'];
  String.prototype.trim = Promise.prototype.finally = noisy;
  Math.random = () => 0.7;
  Date.now = () => 7;
  console.log = console.error = noisy;
  Symbol.for('poisoned');
  Error.stackTraceLimit = 1;
  Error.prepareStackTrace = noisy;
}

function modules() {
  const { Module } = require('module');
  Module._extensions['.poisoned'] = noisy;
  require.cache['/poisoned.js'] = { exports: 1 };
  require('crypto').randomUUID = require('os').hostname = noisy;
  require('events').defaultMaxListeners = 7;
  Buffer.poolSize = 7;
  require('util').inspect.defaultOptions.depth = 7;
  require('http').globalAgent.maxSockets = 7;
  require('dns').setServers(['127.0.0.7']);
  require('net').setDefaultAutoSelectFamily(false);
}

async function surroundings() {
  process.env.poisoned = process.env.PATH = 'poisoned';
  process.argv.push('poisoned');
  process.execArgv.push('poisoned');
  process.title = 'poisoned';
  process.umask(0o077);
  process.chdir('/dev/shm');
  require('os').setPriority(0, 5);
  for (const name of ['SIGTERM', 'SIGUSR2', 'SIGHUP', 'uncaughtException', 'unhandledRejection']) process.on(name, noisy);
  setInterval(noisy, 7_000).unref();
  new (require('worker_threads').Worker)('setInterval(() => {}, 7000)', { eval: true }).unref();
  require('net').createServer().listen(7007, '127.0.0.1').unref();
  for (let n = 0; n < 20; n++) fs.openSync('/tmp', 'r');
  for (const folder of ['/tmp', '/dev/shm']) fs.mkdirSync(`${folder}/poisoned/node_modules`, { recursive: true });
  for (const name of ['index.js', 'fs.js', 'left.txt']) fs.writeFileSync(`/workspace/${name}`, 'poisoned');
  const daemon = spawn('/bin/bash', ['-c', 'trap "" TERM HUP; echo up; exec sleep 700'], { detached: true });
  daemon.unref();
  await once(daemon.stdout, 'data');
  daemon.stdout.destroy();
}

function lethal() {
  for (let number = 3; number < 200; number++) {
    try {
      fs.writeSync(number, 'SBXR of the poisoner'.repeat(20));
    } catch {
      // It is none, or can't be written.
    }
  }
  for (const signal of ['SIGSTOP', 'SIGKILL']) {
    for (const pid of [1, process.ppid, -1]) {
      try {
        if (pid) process.kill(pid, signal);
      } catch {
        // It can't be reached.
      }
    }
  }
}

exports.handler = async (event) => {
  await surroundings();
  modules();
  language();
  fs.writeSync(1, 'done');
  if (event.lethal) lethal();
};
