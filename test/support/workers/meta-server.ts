/**
 * A process of its own that serves an SQLite store over Connect, to be killed by tests.
 * `bun meta-server.ts PATH PORT`; POST /compact forgets the history.
 */
import { systemClock, systemRandom } from "../../../src/base/io";
import { openSqliteStore } from "../../../src/meta";
import { MetaServiceHandler } from "../../../src/net";

const [path = "", port = "0"] = process.argv.slice(2);
const store = openSqliteStore(path, systemClock, systemRandom);
const handler = new MetaServiceHandler({ store, clock: systemClock });
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  fetch: (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/compact") store.compact();
    else if (pathname === "/streams") return new Response(String(handler.streamCount));
    else return handler.handle(request) ?? new Response("not here", { status: 404 });
    return new Response("done");
  },
});
console.log(`listening on ${server.port}`);
