// fastify + better-sqlite3 over the same tables: node server.js PORT DATABASE KIND...
//
// Written with care: prepared statements, a serializer made from the answer's schema, the key
// believed for half a second as ours is, reads in the loop. better-sqlite3 is synchronous, so a
// write waits for its own durable commit (synchronous=FULL) in the loop, too.

"use strict";

const { createHash } = require("node:crypto");
const Database = require("better-sqlite3");
const fastify = require("fastify");

const PATH = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/";
const UUID = /^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$/;
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
const MAX_LENGTH = 255;
const KEY_MILLISECONDS = 500;

const [port, path, ...kinds] = process.argv.slice(2);
const database = new Database(path);
database.pragma("journal_mode = WAL");
database.pragma("synchronous = FULL");
database.pragma("mmap_size = 0x1000000000000");

const keyByDigest = database.prepare(
  "SELECT app_id, type, expires_at, ended_at FROM api_keys WHERE digest = ?");
const identifiersByCustomer = database.prepare(
  "SELECT p.identifiers FROM customers c CROSS JOIN profiles p ON p.number = c.profile" +
  " WHERE c.app_id = ? AND c.customer_user_id = ?").pluck();
const identifiersByProfile = database.prepare(
  "SELECT identifiers FROM profiles WHERE app_id = ? AND profile_id = ?").pluck();
const identifiersByNumber = database.prepare(
  "SELECT identifiers FROM profiles WHERE number = ?").pluck();
const numberByCustomer = database.prepare(
  "SELECT profile FROM customers WHERE app_id = ? AND customer_user_id = ?").pluck();
const numberByProfile = database.prepare(
  "SELECT number FROM profiles WHERE app_id = ? AND profile_id = ?").pluck();
const updateProfile = database.prepare(
  "UPDATE profiles SET identifiers = ?, updated_at = ? WHERE number = ?");
const insertIdentifier = database.prepare("INSERT INTO identifiers VALUES (?, ?, ?, ?)");
const deleteIdentifier = database.prepare(
  "DELETE FROM identifiers WHERE app_id = ? AND kind = ? AND value = ? AND profile = ?");

class Refusal extends Error {
  constructor(status, code, message, source = null) {
    super(message);
    this.body = {
      errors: [{ source, errors: [message] }], error_code: code, status_code: status,
    };
  }
}

const invalid = (source, message) => new Refusal(400, "validation_error", message, source);
const notFound = () => new Refusal(404, "profile_not_found", "Profile not found");

const believed = new Map();

function appOf(authorization) {
  const now = Date.now();
  const known = believed.get(authorization);
  if (known !== undefined && now < known.until) return known.app;
  const found = /^api-key +(\S+)$/i.exec(authorization ?? "");
  const key = found && keyByDigest.get(createHash("sha256").update(found[1]).digest());
  if (!key || key.type !== "secret" || key.ended_at !== null ||
      (key.expires_at !== null && key.expires_at <= now)) {
    throw new Refusal(401, "unauthorized", "Invalid API key");
  }
  believed.set(authorization, { app: key.app_id, until: now + KEY_MILLISECONDS });
  return key.app_id;
}

function whom(headers) {
  let customer = headers["adapty-customer-user-id"];
  let profile = headers["adapty-profile-id"];
  if (!customer && !profile) {
    throw invalid(null, "Send the header adapty-customer-user-id or adapty-profile-id.");
  }
  if (customer) {
    const bytes = Buffer.from(customer, "latin1"); // as Node hands headers over
    customer = bytes.toString("utf8");
    if (!Buffer.from(customer, "utf8").equals(bytes) || customer.length > MAX_LENGTH ||
        CONTROL.test(customer)) {
      throw invalid("adapty-customer-user-id", "Must be UTF-8, at most 255 characters.");
    }
  }
  if (profile) {
    if (!UUID.test(profile)) throw invalid("adapty-profile-id", "Must be a UUID.");
    profile = Buffer.from(profile.replaceAll("-", ""), "hex");
  }
  return { customer, profile };
}

function numberOf(app, { customer, profile }) {
  const byCustomer = customer ? numberByCustomer.get(app, customer) : null;
  const byProfile = profile ? numberByProfile.get(app, profile) : null;
  if (byCustomer === undefined || byProfile === undefined) throw notFound();
  if (customer && profile && byCustomer !== byProfile) {
    throw new Refusal(400, "profile_conflict", "The headers name two profiles.");
  }
  return byCustomer ?? byProfile;
}

function read(app, who) {
  let text;
  if (!who.profile) text = identifiersByCustomer.get(app, who.customer);
  else if (!who.customer) text = identifiersByProfile.get(app, who.profile);
  else text = identifiersByNumber.get(numberOf(app, who));
  if (text === undefined) throw notFound();
  const values = JSON.parse(text);
  const found = {};
  for (let kind = 0; kind < kinds.length; kind++) found[kinds[kind]] = values[kind] ?? null;
  return found;
}

function clean(body) {
  const given = [];
  for (const [kind, name] of kinds.entries()) {
    const value = body[name];
    if (value === undefined || value === null) continue;
    const trimmed = typeof value === "string" ? value.trim() : "";
    if (!trimmed || trimmed.length > MAX_LENGTH || CONTROL.test(trimmed)) {
      throw invalid(name, "Must be a string of 1 to 255 characters.");
    }
    given.push([kind, trimmed]);
  }
  if (given.length === 0) {
    throw invalid(null, "At least one integration identifier must be provided.");
  }
  return given;
}

const write = database.transaction((app, who, given) => {
  const number = numberOf(app, who);
  const values = JSON.parse(identifiersByNumber.get(number));
  let changed = false;
  for (const [kind, value] of given) {
    while (values.length <= kind) values.push(null);
    if (values[kind] === value) continue;
    if (values[kind] !== null) deleteIdentifier.run(app, kind, values[kind], number);
    insertIdentifier.run(app, kind, value, number);
    values[kind] = value;
    changed = true;
  }
  if (changed) updateProfile.run(JSON.stringify(values), Date.now(), number);
}).immediate;

const server = fastify({ logger: false, keepAliveTimeout: 600_000 });
const properties = Object.fromEntries(
  kinds.map((name) => [name, { type: "string", nullable: true }]));

server.setErrorHandler((error, request, reply) => {
  if (!(error instanceof Refusal)) return reply.send(error);
  return reply.code(error.body.status_code).send(error.body);
});
server.get(
  PATH,
  { schema: { response: { 200: { type: "object", properties } } } },
  (request, reply) => {
    reply.send(read(appOf(request.headers.authorization), whom(request.headers)));
  },
);
server.post(PATH, (request, reply) => {
  const app = appOf(request.headers.authorization);
  write(app, whom(request.headers), clean(request.body));
  reply.send();
});
server.listen({ port: Number(port), host: "127.0.0.1" });
