// A reverse proxy whose connections are agentkeepalive's: UPSTREAM SOCKETS keep|close
'use strict';
const http = require('node:http');
const { HttpAgent } = require('agentkeepalive');

const [upstream, sockets, keep] = process.argv.slice(2);
const { hostname, port } = new URL(upstream);
const agent = new HttpAgent({ keepAlive: keep === 'keep', maxSockets: Number(sockets) });

const server = http.createServer((asked, answer) => {
  const { connection, ...headers } = asked.headers;
  const options = { agent, hostname, port, method: asked.method, path: asked.url, headers };
  const request = http.request(options, (response) => {
    const { connection, 'keep-alive': _, ...headers } = response.headers;
    answer.writeHead(response.statusCode, headers);
    response.pipe(answer);
  });
  request.on('error', () => answer.destroy());
  asked.pipe(request);
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
