// The same as an ES module.
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

if (!isMainThread) parentPort.postMessage(workerData.length);

export const handler = () => new Promise((resolve, reject) => {
  new Worker(new URL(import.meta.url), { workerData: 'four' }).on('message', resolve).on('error', reject);
});
