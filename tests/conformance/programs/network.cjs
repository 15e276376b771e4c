// Networking on the sandbox's own loopback; what leads out of it fails at once and says why.
'use strict';
const dgram = require('dgram');
const dns = require('dns');
const { once } = require('events');
const http = require('http');
const net = require('net');
const os = require('os');
const tls = require('tls');

async function web() {
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.writeHead(201, { 'x-method': request.method });
    response.end(Buffer.concat(chunks).reverse());
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = `http://127.0.0.1:${server.address().port}/`;
  const answers = [];
  for (let i = 0; i < 20; i++) {
    const response = await fetch(address, { method: 'POST', body: 'x'.repeat(99999) + 'y' });
    answers.push(response.status === 201 && await response.text() === 'y' + 'x'.repeat(99999));
  }
  const [classic] = await once(http.get(address.replace('127.0.0.1', 'localhost'), { family: 4 }), 'response');
  classic.resume();
  await once(classic, 'end');
  server.closeAllConnections();
  server.close();
  return [answers.length, answers.every(Boolean), classic.headers['x-method']];
}

async function echo(where) {
  const server = net.createServer((socket) => socket.pipe(socket));
  await once(server.listen(where), 'listening');
  const socket = net.connect(where.path ? where : server.address());
  socket.end('there and back');
  let text = '';
  for await (const chunk of socket) text += chunk;
  server.close();
  return text;
}

async function datagram() {
  const [receiver, sender] = [dgram.createSocket('udp4'), dgram.createSocket('udp4')];
  receiver.bind(0, '127.0.0.1');
  await once(receiver, 'listening');
  sender.send('datagram', receiver.address().port, '127.0.0.1');
  const [message] = await once(receiver, 'message');
  sender.close();
  receiver.close();
  return message.toString();
}

async function out() {
  const ways = {
    fetch: () => fetch('https://example.com/'),
    address: () => fetch('http://192.0.2.1/'),
    address6: () => once(net.connect(80, '2001:db8::1'), 'connect'),
    lookup: () => dns.promises.lookup('example.com'),
    resolve: () => dns.promises.resolve4('example.com'),
    nobody: () => fetch('http://127.0.0.1:4/'),
  };
  const failures = {};
  for (const [name, way] of Object.entries(ways)) {
    const start = performance.now();
    try {
      await way();
      failures[name] = 'succeeded';
    } catch (error) {
      failures[name] = [(error.cause ?? error).code, performance.now() - start < 2000];
    }
  }
  return failures;
}

exports.handler = async () => ({
  web: await web(),
  echo: [await echo({ host: '127.0.0.1', port: 0 }), await echo({ host: '::1', port: 0 }), await echo({ path: '/tmp/socket' })],
  datagram: await datagram(),
  out: await out(),
  interfaces: os.networkInterfaces(),
  tls: tls.createSecureContext().context.constructor.name,
});
