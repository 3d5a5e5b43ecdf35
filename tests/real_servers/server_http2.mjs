// Node over HTTP/2: a hundred streams beside one another, and GOAWAY after every thousandth.
import { appendFileSync, readFileSync } from "node:fs";
import { createSecureServer } from "node:http2";

const [host, port, log, folder] = process.argv.slice(2);
const uses = new WeakMap();
const server = createSecureServer({
  cert: readFileSync(`${folder}/cert.pem`),
  key: readFileSync(`${folder}/key.pem`),
  settings: { maxConcurrentStreams: 100 },
});
server.on("stream", (stream, headers) => {
  const { session } = stream;
  const use = (uses.get(session) ?? 0) + 1;
  uses.set(session, use);
  if (use === 1000) session.close();
  const id = new URL(headers[":path"], "http://localhost").searchParams.get("id");
  stream.on("error", () => {});
  stream.resume().on("end", () => {
    appendFileSync(log, `${headers[":method"]} ${id} ${use}\n`);
    stream.respond({ ":status": 200 });
    stream.end(id);
  });
});
server.listen(Number(port), host);
