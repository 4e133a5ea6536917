/** The client and a running anlyt, whose address, keys and planted rows stand in ANLYT_TEST. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Anlyt, AnlytProblem, parse, stringify } from '../../dist/index.js';

const { url, keys, account, other, day, rows, numbers } = parse(process.env.ANLYT_TEST);
const staff = new Anlyt({ baseUrl: url, key: keys.staff });
const tenant = new Anlyt({ baseUrl: url, key: keys.tenant });
const writer = new Anlyt({ baseUrl: url, key: keys.writer });
const PERIOD = { from: day, to: new Date(new Date(day).getTime() + 86_400_000) };
const BIG = numbers.map(BigInt);

async function all(rows) {
  const found = [];
  for await (const row of rows) found.push(row);
  return found;
}

function event(id, data = {}) {
  const now = new Date();
  return {
    specversion: '1.0',
    id,
    source: '/typescript',
    type: 'message.submitted',
    time: now,
    data: { messageId: id, accountId: account, cost: '0.000001', ...data },
  };
}

test('numbers, money and instants arrive exactly', async () => {
  const [row, ...more] = await all(tenant.hourly(PERIOD));
  assert.deepEqual(more, []);
  assert.equal(row.scopeId, account);
  assert.ok(row.hourBucket instanceof Date && row.updatedAt instanceof Date);
  assert.equal(row.hourBucket.toISOString(), new Date(day).toISOString());
  assert.deepEqual(
    [row.totalMessages, row.deliveredMessages, row.failedMessages, row.latencySumMs],
    [BIG[0], BIG[1], BIG[2], BIG[1]],
  );
  assert.equal(row.totalCost, '999999999999.999999');
  assert.equal(typeof row.peakTps, 'number');
  assert.equal(row.final, false);

  const [usage] = await all(tenant.accounts(PERIOD));
  assert.deepEqual([usage.messagesSent, usage.messagesDelivered, usage.totalSegments], [BIG[0], BIG[1], BIG[2]]);
  assert.equal(usage.totalCost, '-999999999999.999999');
  assert.equal(usage.avgLatencyMs, null);

  const [performance] = await all(staff.operators(PERIOD));
  assert.deepEqual([performance.totalMessages, performance.errorCount], [BIG[1], BIG[0]]);
  assert.equal(performance.latencyP95Ms, null);
});

test('what was read can be written again, to the letter', async () => {
  const response = await fetch(`${url}/v1/metrics/hourly?from=${day}&limit=1`, {
    headers: { authorization: `Bearer ${keys.tenant}` },
  });
  const text = await response.text();
  assert.equal(stringify(parse(text)), text);
});

test('pages are followed to the end', async () => {
  const pages = await all(staff.daily({ from: PERIOD.from, to: PERIOD.to, limit: 7 }).pages());
  const seen = pages.flatMap((page) => page.data.map(({ scopeId }) => scopeId));
  assert.equal(seen.length, Number(rows));
  assert.equal(new Set(seen).size, seen.length);
  assert.ok(pages.length > 3 && pages.every((page) => page.meta.asOf instanceof Date));
  assert.deepEqual(seen, (await all(staff.daily({ ...PERIOD, limit: 1000 }))).map(({ scopeId }) => scopeId));
});

test('a period streams as rows and as a file', async () => {
  const streamed = await all(staff.exportRows('daily', PERIOD));
  const paged = await all(staff.daily({ ...PERIOD, limit: 1000 }));
  assert.deepEqual(streamed, paged);
  const { stream, filename, asOf } = await staff.export('daily', 'csv', PERIOD);
  const lines = (await new Response(stream).text()).trimEnd().split(/\r?\n/);
  assert.equal(lines.length, Number(rows) + 1);
  assert.ok(lines[1].includes(`,${numbers[0]},`) && lines[1].includes(',999999999999.999999,'));
  assert.match(filename, /^anlyt-daily-.*\.csv$/);
  assert.ok(asOf instanceof Date);
});

test('sums are exact', async () => {
  const { data, meta } = await tenant.summary({ ...PERIOD, scope: 'ACCOUNT', scopeId: account });
  assert.equal(data[0].totalMessages, BIG[0]);
  assert.equal(data[0].totalCost, '999999999999.999999');
  assert.ok(data[0].start instanceof Date && meta.asOf instanceof Date);
  assert.equal(meta.groups, 1);
});

test('the status has big integers and instants', async () => {
  const status = await staff.status();
  assert.equal(typeof status.counted, 'bigint');
  assert.ok(status.asOf instanceof Date && Array.isArray(status.slots));
  assert.equal((await tenant.status()).counted, undefined);
});

test("another account's id looks like none", async () => {
  await assert.rejects(all(tenant.accounts({ accountId: other })), { status: 404, kind: 'not-found' });
  const nobody = new Anlyt({ baseUrl: url, key: `${keys.tenant.slice(0, -1)}x` });
  await assert.rejects(nobody.status(), (error) => error instanceof AnlytProblem && error.status === 401);
});

test('each event is told its fate', async () => {
  const events = [event('a'), event('a'), event('b', { segments: 0 })];
  const { data, meta } = await writer.publish(events);
  assert.deepEqual(data.map(({ fate }) => fate), ['accepted', 'duplicate', 'rejected']);
  assert.deepEqual(meta, { accepted: 1, duplicate: 1, ignored: 0, rejected: 1 });
  assert.match(data[2].detail, /segments/);
  const error = await writer.publish(event('c', { cost: '1.0000001' })).catch((each) => each);
  assert.equal(error.kind, 'no-valid-event');
  assert.equal(error.events[0].reason, 'invalid_field');
});

test('what is published is heard live and counted', { timeout: 60_000 }, async () => {
  const stop = new AbortController();
  const heard = [];
  for await (const { event: name, data, id } of tenant.live({ scope: 'ACCOUNT' }, { signal: stop.signal })) {
    if (name === 'progress' && heard.length === 0) {
      heard.push(id);
      await writer.publish(event(`live-${Date.now()}`));
    }
    if (name === 'hourly' && data.scopeId === account && data.hourBucket > new Date(day)) {
      assert.equal(typeof data.totalMessages, 'bigint');
      heard.push(data.totalMessages);
      stop.abort();
    }
  }
  assert.equal(heard.length, 2);
  assert.match(heard[0], /./);
});

test('dead letters are listed, shown and discarded', async () => {
  const letters = await all(staff.deadLetters({ reason: 'malformed' }));
  assert.equal(letters.length, 1);
  const [{ sequence, batchIndex }] = letters;
  assert.equal(typeof sequence, 'bigint');
  const [shown] = await staff.deadLetter(sequence, batchIndex);
  assert.equal(shown.body, 'no event');
  const { data } = await staff.retryDeadLetters({ sequence });
  assert.equal(data.failed, 1n);
  const done = await staff.discardDeadLetters({ sequence, index: batchIndex });
  assert.deepEqual(done.data, { discarded: 1n, stillOpen: 0n });
  await assert.rejects(tenant.deadLetters().pages().next(), { status: 403, kind: 'forbidden' });
});
