// Threads and memory that they share, WebAssembly, large buffers.
'use strict';
const { Worker, MessageChannel } = require('worker_threads');
const { once } = require('events');

const COUNT = `
const { parentPort, workerData } = require('worker_threads');
const cells = new Int32Array(workerData);
for (let i = 0; i < 10000; i++) Atomics.add(cells, 0, 1);
Atomics.add(cells, 1, 1);
Atomics.notify(cells, 1);
parentPort.postMessage({ sum: new Uint8Array(1 << 20).fill(1).reduce((a, b) => a + b) });
`;

async function shared() {
  const memory = new SharedArrayBuffer(8);
  const cells = new Int32Array(memory);
  const workers = Array.from({ length: 4 }, () => new Worker(COUNT, { eval: true, workerData: memory }));
  const messages = await Promise.all(workers.map(async (worker) => {
    // Both are waited for from the start: they may come together.
    const [[message]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')]);
    return message.sum;
  }));
  return { count: cells[0], done: cells[1], wait: Atomics.wait(cells, 1, 4, 10), messages };
}

async function failing() {
  const worker = new Worker('throw new TypeError("in a thread")', { eval: true });
  const [error] = await once(worker, 'error');
  return `${error.name}: ${error.message}`;
}

async function channel() {
  const { port1, port2 } = new MessageChannel();
  const buffer = new ArrayBuffer(1000);
  port1.postMessage({ map: new Map([[1, 'one']]), buffer }, [buffer]);
  const [message] = await once(port2, 'message');
  port1.close();
  return [buffer.byteLength, message.buffer.byteLength, message.map.get(1)];
}

// (module (memory (export "memory") 1 1024) (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
const MODULE = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 5, 5, 1, 1, 1, 128, 8, 7, 16, 2, 6, 109,
  101, 109, 111, 114, 121, 2, 0, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11,
]);
async function wasm() {
  const { instance } = await WebAssembly.instantiate(MODULE);
  const { add, memory } = instance.exports;
  const pages = memory.grow(100);
  new Uint8Array(memory.buffer).fill(7);
  let sum = 0;
  for (let i = 0; i < 100000; i++) sum = add(sum, i);
  const threads = new WebAssembly.Memory({ initial: 1, maximum: 16, shared: true });
  return [sum, pages, new Uint8Array(memory.buffer)[6_000_000], threads.buffer instanceof SharedArrayBuffer];
}

function buffers() {
  const large = Buffer.alloc(200 << 20, 'ab');
  const sum = large.subarray(100 << 20).readUInt16BE(0);
  return [large.length, sum, Buffer.concat([Buffer.from('é'), Buffer.from([0xff])]).toString('hex')];
}

exports.handler = async () => ({
  shared: await shared(), failing: await failing(), channel: await channel(), wasm: await wasm(), buffers: buffers(),
});
