// A reverse proxy whose connections are undici's: UPSTREAM SOCKETS keep|close
'use strict';
const http = require('node:http');
const { Pool } = require('undici');

const [upstream, sockets, keep] = process.argv.slice(2);
// `pipelining: 0` is how undici is told to keep no connection.
const pool = new Pool(upstream, { connections: Number(sockets), pipelining: keep === 'keep' ? 1 : 0 });

const server = http.createServer(async (asked, answer) => {
  const { connection, ...headers } = asked.headers;
  const body = asked.method === 'GET' || asked.method === 'HEAD' ? null : asked;
  try {
    const response = await pool.request({ method: asked.method, path: asked.url, headers, body });
    const { connection, 'keep-alive': _, ...fields } = response.headers;
    answer.writeHead(response.statusCode, fields);
    response.body.pipe(answer);
  } catch {
    answer.destroy();
  }
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
