// Express with connect-mongo, with the same answers as the Python peers.
//   node server.js --port 8001 --mongo URI --variant plain|crypto|tuned

import { parseArgs } from "node:util";
import MongoStore, { createWebCryptoAdapter } from "connect-mongo";
import express from "express";
import session from "express-session";

const SECRET = "a benchmark has nothing to hide, so it is in the source";
const TWO_WEEKS = 14 * 24 * 3600;

const { values: given } = parseArgs({
  options: { port: { type: "string" }, mongo: { type: "string" }, variant: { type: "string" } },
});

const variants = {
  plain: {},
  crypto: { crypto: { secret: SECRET } },
  // The best configuration of connect-mongo 6: the new adapter derives one key for all sessions, and
  // a read writes the new expiry only as often as this project does.
  tuned: { cryptoAdapter: createWebCryptoAdapter({ secret: SECRET }), touchAfter: 3600 },
};

const store = MongoStore.create({
  mongoUrl: given.mongo,
  dbName: `bench_express_${given.variant}`,
  ttl: TWO_WEEKS,
  ...variants[given.variant],
});

function user(number) {
  const digits = String(number).padStart(4, "0");
  return { id: `u${digits}`, name: `Visitor ${digits}`, mail: `u${digits}@box.test` };
}

function signedIn(request, response, next) {
  if (request.session.user) next();
  else response.sendStatus(401);
}

const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(
  session({
    secret: SECRET,
    resave: false,
    saveUninitialized: false,
    cookie: { maxAge: TWO_WEEKS * 1000, httpOnly: true, sameSite: "lax" },
    store,
  }),
);

app.get("/read", signedIn, (request, response) => {
  response.json(request.session.user);
});

app.get("/count", signedIn, (request, response) => {
  response.type("text").send(String(request.session.count));
});

app.post("/write", signedIn, (request, response) => {
  request.session.count += 1;
  response.json(request.session.user);
});

app.post("/login", (request, response) => {
  request.session.user = user(Number(request.query.number));
  request.session.count = 0;
  response.json(request.session.user);
});

app.post("/logout", signedIn, (request, response, next) => {
  request.session.destroy((error) => (error ? next(error) : response.sendStatus(204)));
});

const server = app.listen(Number(given.port), "127.0.0.1");

process.on("SIGTERM", () => {
  server.close();
  server.closeAllConnections();
  store.close().finally(() => process.exit(0));
});
