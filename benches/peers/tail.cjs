// Sends requests by a schedule: agentkeepalive|undici SCHEDULE URL SOCKETS. A line for each: its latency from the time in the
// schedule, in microseconds, or `-` where it was not answered.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const { performance } = require('node:perf_hooks');

const [peer, schedule, url, sockets] = process.argv.slice(2);
const { origin, hostname, port, pathname } = new URL(url);

function agentkeepalive() {
  const { HttpAgent } = require('agentkeepalive');
  const agent = new HttpAgent({ keepAlive: true, maxSockets: Number(sockets) });
  return (done) => {
    const request = http.get({ agent, hostname, port, path: pathname }, (response) => {
      response.on('error', () => done(false));
      response.on('end', () => done(response.statusCode === 200));
      response.resume();
    });
    request.on('error', () => done(false));
  };
}

function undici() {
  const { Pool } = require('undici');
  const pool = new Pool(origin, { connections: Number(sockets), pipelining: 1 });
  return async (done) => {
    try {
      const response = await pool.request({ method: 'GET', path: pathname });
      await response.body.dump();
      done(response.statusCode === 200);
    } catch {
      done(false);
    }
  };
}

const send = { agentkeepalive, undici }[peer]();
const arrivals = fs.readFileSync(schedule, 'utf8').trimEnd().split('\n').map(Number);
const latencies = new Array(arrivals.length).fill('-');
let next = 0;
let left = arrivals.length;
const begun = performance.now();
const micros = () => (performance.now() - begun) * 1000;

function tell() {
  fs.writeSync(1, latencies.join('\n') + '\n');
  process.exit(0);
}

function follow() {
  while (next < arrivals.length && arrivals[next] <= micros()) {
    const place = next++;
    send((isAnswered) => {
      if (isAnswered) latencies[place] = Math.round(micros() - arrivals[place]);
      if (--left === 0) tell();
    });
  }
  if (next < arrivals.length) setTimeout(follow, 1);
}
follow();
setTimeout(tell, arrivals.at(-1) / 1000 + 20_000);
