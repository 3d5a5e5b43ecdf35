// Node: closes what is idle for a second, and each connection after its fifth request.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const [host, port, log] = process.argv.slice(2);
const uses = new WeakMap();
const server = createServer((request, response) => {
  const use = (uses.get(request.socket) ?? 0) + 1;
  uses.set(request.socket, use);
  const id = new URL(request.url, "http://localhost").searchParams.get("id");
  request.resume().on("end", () => {
    appendFileSync(log, `${request.method} ${id} ${use}\n`);
    response.end(id);
  });
});
server.keepAliveTimeout = 1000;
// Newer versions of node add this to it, and say nothing of it to clients.
server.keepAliveTimeoutBuffer = 0;
server.maxRequestsPerSocket = 5;
server.listen(Number(port), host);
