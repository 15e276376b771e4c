// A program that starts threads of itself, in the way that Node's documentation shows.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { sum } = (() => { try { return require('./sum.cjs'); } catch { return {}; } })();

if (!isMainThread) parentPort.postMessage(sum(workerData));

exports.handler = async () => {
  require('fs').writeFileSync('sum.cjs', 'exports.sum = (numbers) => numbers.reduce((a, b) => a + b)');
  return Promise.all([[1, 2], [3, 4]].map((numbers) => new Promise((resolve, reject) => {
    new Worker(__filename, { workerData: numbers }).on('message', resolve).on('error', reject);
  })));
};
