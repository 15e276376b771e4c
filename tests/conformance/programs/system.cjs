// Child processes, files, streams, watchers, compression, cryptography, timers, contexts, modules.
'use strict';
const { AsyncLocalStorage, createHook } = require('async_hooks');
const child_process = require('child_process');
const cluster = require('cluster');
const crypto = require('crypto');
const { once } = require('events');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { Readable, Transform, pipeline } = require('stream');
const timers = require('timers/promises');
const { promisify } = require('util');
const zlib = require('zlib');

async function children() {
  const exec = promisify(child_process.exec);
  const { stdout } = await exec('printf "b\\na\\n" | sort');
  const failure = await exec('echo wrong >&2; exit 5').catch((error) => [error.code, error.stderr]);
  const tr = child_process.spawn('tr', ['a-z', 'A-Z']);
  tr.stdin.end('by spawn');
  const [shouted] = await once(tr.stdout, 'data');
  const sleeper = child_process.spawn('sleep', ['60'], { timeout: 50 });
  const [, signal] = await once(sleeper, 'exit');
  const absent = child_process.spawnSync('no-such-program').error.code;
  fs.writeFileSync('child.cjs', 'process.on("message", (n) => { process.send(n * 2); process.disconnect(); })');
  const forked = child_process.fork('./child.cjs');
  forked.send(21);
  const [[doubled], [code]] = await Promise.all([once(forked, 'message'), once(forked, 'exit')]);
  return { sorted: stdout, failure, shouted: shouted.toString(), signal, absent, doubled, code };
}

async function workers() {
  fs.writeFileSync('worker.cjs', `
    require('http').createServer((_, response) => response.end(String(process.pid))).listen(0, '127.0.0.1');
  `);
  cluster.setupPrimary({ exec: path.resolve('worker.cjs') });
  const worker = cluster.fork();
  const [address] = await once(worker, 'listening');
  const pid = await (await fetch(`http://127.0.0.1:${address.port}/`)).text();
  worker.kill();
  await once(worker, 'exit');
  return Number(pid) === worker.process.pid;
}

async function files() {
  await fs.promises.mkdir('a/b/c', { recursive: true });
  await fs.promises.writeFile('a/file', 'x'.repeat(100000));
  const upper = new Transform({ transform: (chunk, _, done) => done(null, chunk.toString().toUpperCase()) });
  await promisify(pipeline)(fs.createReadStream('a/file'), upper, zlib.createGzip(), fs.createWriteStream('a/b/file.gz'));
  const unpacked = await promisify(zlib.gunzip)(await fs.promises.readFile('a/b/file.gz'));
  await fs.promises.cp('a', 'copy', { recursive: true });
  await fs.promises.symlink('file', 'copy/link');
  const names = (await fs.promises.readdir('copy', { recursive: true })).sort();
  await fs.promises.rm('copy', { recursive: true });
  const lines = [];
  for await (const line of require('readline').createInterface(Readable.from(['one\ntw', 'o\n']))) lines.push(line);
  return [unpacked.toString() === 'X'.repeat(100000), names, fs.existsSync('copy'), lines];
}

async function watched() {
  fs.mkdirSync('watched');
  const watcher = fs.watch('watched');
  const change = once(watcher, 'change');
  fs.writeFileSync('watched/new', '');
  const [, name] = await change;
  watcher.close();
  return name;
}

function cryptography() {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const signature = crypto.sign('sha256', Buffer.from('text'), privateKey);
  return [
    crypto.createHash('sha256').update('abc').digest('hex').slice(0, 8),
    crypto.verify('sha256', Buffer.from('text'), publicKey, signature),
    crypto.scryptSync('password', 'NaCl', 64, { N: 1024, r: 8, p: 16 }).toString('hex').slice(0, 8),
    crypto.randomUUID().length,
  ];
}

async function contexts() {
  const storage = new AsyncLocalStorage();
  const kinds = new Set();
  const hook = createHook({ init: (_, kind) => kinds.add(kind) }).enable();
  const values = await Promise.all([1, 2, 3].map((value) => storage.run(value, async () => {
    await timers.setTimeout(5);
    await timers.setImmediate();
    return storage.getStore();
  })));
  hook.disable();
  let ticks = 0;
  for await (const _ of timers.setInterval(2)) if (++ticks === 3) break;
  const late = await timers.setTimeout(60000, 'late', { signal: AbortSignal.timeout(10) }).catch((error) => error.name);
  return [values, kinds.has('PROMISE') && kinds.has('Timeout'), ticks, late];
}

async function modules() {
  fs.writeFileSync('module.mjs', 'export const value = await Promise.resolve(6 * 7); export default import.meta.url;');
  fs.writeFileSync('data.json', '{"key": [1]}');
  fs.writeFileSync('common.cjs', 'exports.name = __filename;');
  const module = await import('./module.mjs');
  const { readFile } = await import('node:fs/promises');
  return [module.value, module.default, require('./data.json').key, require('./common.cjs').name, typeof readFile];
}

function surroundings() {
  const { username, homedir } = os.userInfo();
  return [os.cpus().length > 0, os.hostname(), username, homedir, os.tmpdir(), os.totalmem() > 0, os.loadavg().length, process.stdin.isTTY ?? false,
    new Intl.NumberFormat('de-DE').format(1234.5), new Date(0).toLocaleString('en-US', { timeZone: 'Asia/Shanghai' })];
}

exports.handler = async () => ({
  children: await children(),
  workers: await workers(),
  files: await files(),
  watched: await watched(),
  cryptography: cryptography(),
  contexts: await contexts(),
  modules: await modules(),
  surroundings: surroundings(),
});
