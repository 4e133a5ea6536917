/** The client and servers that behave as services do on a bad day. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { Anlyt, AnlytProblem, ShapeError } from '../../dist/index.js';

const KEY = 'anlyt_test';
const SMALL_ROW =
  '{"dayBucket":"2026-04-18T00:00:00Z","accountId":"a","messagesSent":1,"messagesDelivered":0,"messagesFailed":0,' +
  '"totalCost":"0.000000","totalSegments":1,"updatedAt":"2026-04-18T00:00:00Z","deliveryRate":0,"avgLatencyMs":null,' +
  '"errorRate":0,"final":true}';

/** A server that answers request number n with the n-th of `answers`, the last for all that follow. */
async function serving(answers, work) {
  const asked = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (piece) => (body += piece));
    request.on('end', () => {
      asked.push({ method: request.method, url: request.url, headers: request.headers, body });
      answers[Math.min(asked.length, answers.length) - 1](response, request);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const baseUrl = `http://127.0.0.1:${server.address().port}`;
  try {
    await work(new Anlyt({ baseUrl, key: KEY }), asked, baseUrl);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const json = (text, status = 200, headers = {}) => (response) =>
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text);
const problem = (status, body, headers = {}) =>
  json(JSON.stringify(body), status, { 'content-type': 'application/problem+json', ...headers });

test('an export that breaks is never taken for the whole', async () => {
  const broken = (response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.write(`${SMALL_ROW}\n${SMALL_ROW}\n`);
    setImmediate(() => response.destroy());
  };
  await serving([broken], async (client) => {
    let rows = 0;
    await assert.rejects(async () => {
      for await (const row of client.exportRows('accounts')) rows += row.messagesSent === 1n ? 1 : 0;
    });
    assert.ok(rows <= 2);
    const { stream } = await client.export('accounts', 'csv');
    await assert.rejects(new Response(stream).text());
  });
});

test('a problem becomes an error with all that it says', async () => {
  const body = {
    type: 'urn:anlyt:problem:invalid-parameter',
    title: 'A parameter is not valid',
    status: 422,
    detail: "limit is '0'",
    parameter: 'limit',
  };
  await serving([problem(422, body, { 'retry-after': '7', 'x-request-id': 'abc' })], async (client) => {
    const error = await client.summary().catch((each) => each);
    assert.ok(error instanceof AnlytProblem);
    const { status, kind, message, title, parameter, retryAfterSeconds, requestId } = error;
    assert.deepEqual(
      { status, kind, message, title, parameter, retryAfterSeconds, requestId },
      {
        status: 422,
        kind: 'invalid-parameter',
        message: "limit is '0'",
        title: 'A parameter is not valid',
        parameter: 'limit',
        retryAfterSeconds: 7,
        requestId: 'abc',
      },
    );
  });
});

test("a proxy's page is an error too", async () => {
  await serving([json('<html>', 502, { 'content-type': 'text/html' })], async (client) => {
    await assert.rejects(client.status(), { name: 'AnlytProblem', status: 502, kind: 'unknown' });
  });
});

test('an answer of another shape is refused, not passed on', async () => {
  const page = (data) => `{"data":${data},"next":null,"meta":{"asOf":"2026-04-18T00:00:00Z"}}`;
  const wrong = [
    page(`[${SMALL_ROW.replace('"messagesSent":1', '"messagesSent":1.5')}]`),
    page(`[${SMALL_ROW.replace('"messagesSent":1', '"messagesSent":"1"')}]`),
    page(`[${SMALL_ROW.replace('2026-04-18T00:00:00Z', 'yesterday')}]`),
    page('{}'),
    '[]',
  ];
  await serving(wrong.map((text) => json(text)), async (client) => {
    for (const text of wrong) await assert.rejects(client.accounts().pages().next(), ShapeError, text);
  });
});

test('a cursor is followed with the same question, and the key is never in the address', async () => {
  const page = (next) => json(`{"data":[${SMALL_ROW}],"next":${next},"meta":{}}`);
  await serving([page('"c 1+"'), page('"c2"'), page('null')], async (client, asked, baseUrl) => {
    const at = new Date('2026-04-01T00:00:00Z');
    const rows = [];
    for await (const row of client.accounts({ accountId: ['a', 'b'], from: at, limit: 1 })) rows.push(row);
    assert.equal(rows.length, 3);
    const question = 'accountId=a&accountId=b&from=2026-04-01T00%3A00%3A00.000Z&limit=1';
    assert.deepEqual(
      asked.map(({ url }) => url),
      ['', '&cursor=c+1%2B', '&cursor=c2'].map((cursor) => `/v1/accounts/usage?${question}${cursor}`),
    );
    assert.ok(asked.every(({ headers }) => headers.authorization === `Bearer ${KEY}`));
    assert.ok(asked.every(({ url }) => !url.includes(KEY)));

    const behindPath = new Anlyt({ baseUrl: `${baseUrl}/numbers`, key: KEY });
    await behindPath.accounts().pages().next();
    assert.equal(asked.at(-1).url, '/numbers/v1/accounts/usage');
  });
});

test('a key is not sent on to where a redirect points', async () => {
  const away = (response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end();
  await serving([away], async (client) => {
    await assert.rejects(client.status(), TypeError);
  });
});

test('a request that takes too long is given up', async () => {
  await serving([() => undefined], async (_client, _asked, baseUrl) => {
    const hasty = new Anlyt({ baseUrl, key: KEY, timeoutMs: 50 });
    await assert.rejects(hasty.status(), { name: 'TimeoutError' });
  });
});

const live = (text, then = 'end') => (response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(text);
  if (then === 'end') response.end();
  if (then === 'break') setImmediate(() => response.destroy());
};
const progress = (id) =>
  `retry: 1\n\nevent: progress\nid: ${id}\ndata: {"asOf":"2026-04-18T00:00:0${id}Z","completeThrough":null,"lagSeconds":null}\n\n`;

test('a live stream is resumed where it was, whatever ends it', async () => {
  const busy = problem(503, { type: 'urn:anlyt:problem:unavailable', title: '', status: 503, detail: '' }, { 'retry-after': '0' });
  const answers = [live(progress(1)), live(progress(2), 'break'), busy, live(`${progress(3)}event: later\ndata: {}\n\n`, 'stay')];
  await serving(answers, async (client, asked) => {
    const heard = [];
    for await (const { event, id, data } of client.live({ scope: 'ACCOUNT', scopeId: 'a' }, { lastEventId: '0' })) {
      heard.push([event, id, data.asOf.getUTCSeconds()]);
      if (id === '3') break;
    }
    assert.deepEqual(heard, [['progress', '1', 1], ['progress', '2', 2], ['progress', '3', 3]]);
    assert.deepEqual(asked.map(({ headers }) => headers['last-event-id']), ['0', '1', '2', '2']);
    assert.ok(asked.every(({ url }) => url === '/v1/live?scope=ACCOUNT&scopeId=a'));
  });
});

test('a live stream ends when its signal says so, and throws what waiting cannot mend', async () => {
  const stop = new AbortController();
  await serving([live(progress(1), 'stay')], async (client) => {
    const heard = [];
    for await (const { id } of client.live({}, { signal: stop.signal })) {
      heard.push(id);
      stop.abort();
    }
    assert.deepEqual(heard, ['1']);
  });
  const refused = problem(401, { type: 'urn:anlyt:problem:unauthorized', title: '', status: 401, detail: 'no' });
  await serving([refused], async (client) => {
    await assert.rejects(client.live().next(), { kind: 'unauthorized' });
  });
  await serving([live('event: progress\ndata: {"asOf": 1}\n\n', 'stay')], async (client) => {
    await assert.rejects(client.live().next(), ShapeError);
  });
});
