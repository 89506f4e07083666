// The questions of check.py, asked by memjs: node check.js HOST:PORT
"use strict";

const assert = require("node:assert");
const memjs = require("memjs");

const address = process.argv[2];
const prefix = `memjs:${process.pid}`;
const connect = () => memjs.Client.create(address, { retries: 0, timeout: 5 });

async function waitUntil(what, condition) {
  const deadline = Date.now() + 5000;
  while (!(await condition())) {
    assert(Date.now() < deadline, `${what}: not in time`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function main() {
  let client = connect();
  const get = async (key) => {
    const { value } = await client.get(key);
    return value === null ? null : value.toString();
  };
  const key = `${prefix}:one`;
  assert.strictEqual(await get(key), null);
  assert(await client.set(key, "value", {}));
  assert.strictEqual(await get(key), "value");
  assert.strictEqual(await client.add(key, "other", {}), false);
  assert(await client.replace(key, "second", {}));
  assert.strictEqual(await get(key), "second");
  assert.strictEqual(await client.replace(`${prefix}:none`, "x", {}), false);
  console.log("  set, get, add, replace");

  // It has no multi-get: many gets at once go down one connection.
  const many = Array.from({ length: 200 }, (_, n) => `${prefix}:many:${n}`);
  await Promise.all(many.map((name) => client.set(name, `of ${name}`, {})));
  const got = await Promise.all(many.map(get));
  assert.deepStrictEqual(got, many.map((name) => `of ${name}`));
  console.log("  many gets at once over all servers");

  const number = `${prefix}:number`;
  assert.strictEqual((await client.increment(number, 5, { initial: 10 })).value, 10);
  assert.strictEqual((await client.increment(number, 5, { initial: 10 })).value, 15);
  assert.strictEqual((await client.decrement(number, 3, { initial: 10 })).value, 12);
  console.log("  incr, decr");

  assert(await client.set(`${prefix}:text`, "b", {}));
  assert(await client.append(`${prefix}:text`, "c"));
  assert(await client.prepend(`${prefix}:text`, "a"));
  // memjs has the two opcodes the wrong way round, with any server.
  assert.strictEqual(await get(`${prefix}:text`), "bca");
  console.log("  append, prepend");

  assert(await client.touch(`${prefix}:text`, 100));
  assert.strictEqual(await client.touch(`${prefix}:none`, 100), false);
  assert(await client.touch(`${prefix}:text`, 1));
  await waitUntil("a touched item expires", async () => (await get(`${prefix}:text`)) === null);
  console.log("  touch");

  assert(await client.delete(key));
  assert.strictEqual(await client.delete(key), false);
  assert.strictEqual(await get(key), null);
  console.log("  delete");

  assert(await client.set(key, "soon gone", { expires: 1 }));
  await waitUntil("an item expires", async () => (await get(key)) === null);
  console.log("  expiry");

  const large = "x".repeat(1024 * 1024 - 200);
  assert(await client.set(`${prefix}:large`, large, {}));
  assert.strictEqual(await get(`${prefix}:large`), large);
  console.log("  a value of 1 MiB");

  assert(await client.set(key, "before", {}));
  await assert.rejects(client.set(`${prefix}:too-large`, "x".repeat(2 * 1024 * 1024), {}));
  assert.strictEqual(await get(key), "before");
  console.log("  a value over the limit");

  const version = await new Promise((resolve, reject) =>
    client.stats((error, _server, stats) => (error ? reject(error) : resolve(stats))));
  assert(version.version);
  console.log("  stats");

  client.quit();
  client = connect();
  assert.strictEqual(await get(key), "before");
  client.close();
  console.log("  reconnect");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
