// A program that starts threads, processes and cluster workers of itself, in the ways that Node's documentation shows.
const cluster = require('cluster');
const { fork } = require('child_process');
const { once } = require('events');
const fs = require('fs');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

if (!isMainThread) parentPort.postMessage([require('./sum.cjs')(workerData), __filename]);
else if (cluster.isWorker) process.send('from a worker');
else if (process.send) process.once('message', (numbers) => process.send(require('./sum.cjs')(numbers)));

async function message(sender) {
  const [[text]] = await Promise.all([once(sender, 'message'), once(sender, 'exit')]);
  return text;
}

exports.handler = async () => {
  fs.writeFileSync('sum.cjs', 'module.exports = (numbers) => numbers.reduce((a, b) => a + b)');
  const child = fork(__filename);
  child.send([5, 6]);
  child.once('message', () => child.disconnect());
  const worker = cluster.fork();
  worker.once('message', () => worker.kill());
  const thread = (workerData) => new Worker(__filename, { workerData });
  const [forked, greeting, one, other, [error]] = await Promise.all([
    message(child), message(worker), message(thread([1, 2])), message(thread([3, 4])), once(thread(null), 'error'),
  ]);
  return { forked, greeting, threads: [one, other], failing: error.name };
};
