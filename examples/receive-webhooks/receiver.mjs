// Receive Ledgerline's webhooks: verify the signature, drop repeats, answer 2xx. Node.js without any package.
//
//     WEBHOOK_SECRET=whsec_... node receiver.mjs 8000
//
// It prints one line of JSON for each event. Run it behind a server that ends TLS.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const TOLERANCE_SECONDS = 300;
const BODY_BYTES_MAX = 65536;
const SEEN_MAX = 100000;

// Return whether one of the secrets signed this request within the last or next five minutes.
// secrets: texts that begin with whsec_; headers: names in small letters; body: a Buffer as it came.
export function verify(secrets, headers, body, nowSeconds) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (id === "" || !/^[0-9]{1,15}$/.test(timestamp)) return false;
  if (Math.abs(nowSeconds - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const given = (headers["webhook-signature"] ?? "")
    .split(" ")
    .filter((part) => part.startsWith("v1,"))
    .map((part) => Buffer.from(part.slice(3)));
  return secrets.some((secret) => {
    const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
    const wanted = Buffer.from(
      createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest("base64"),
    );
    return given.some((one) => one.length === wanted.length && timingSafeEqual(one, wanted));
  });
}

// Two secrets, separated by a space, while a secret is rotated.
const secrets = process.env.WEBHOOK_SECRET.split(" ");
const seen = new Set();

const server = createServer((request, response) => {
  const pieces = [];
  let size = 0;
  request.on("data", (piece) => {
    size += piece.length;
    if (size <= BODY_BYTES_MAX) pieces.push(piece);
  });
  request.on("end", () => {
    const body = Buffer.concat(pieces);
    if (request.method !== "POST" || size > BODY_BYTES_MAX || !verify(secrets, request.headers, body, Date.now() / 1000)) {
      response.writeHead(400).end();
      return;
    }
    const id = request.headers["webhook-id"];
    if (!seen.has(id)) {
      // A real receiver stores the id in the transaction of the event's effect.
      seen.add(id);
      if (seen.size > SEEN_MAX) seen.delete(seen.values().next().value);
      const event = JSON.parse(body.toString("utf8"));
      console.log(JSON.stringify({ id: event.id, type: event.type }));
    }
    response.writeHead(204).end();
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port }));
});
