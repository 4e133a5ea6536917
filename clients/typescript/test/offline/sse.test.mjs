/** Server-sent events as the standard has them, however the stream is cut into pieces. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventReader } from '../../dist/sse.js';

function read(pieces, lastEventId) {
  const reader = new EventReader(lastEventId);
  const events = pieces.flatMap((piece) => [...reader.read(piece)]);
  return { events, id: reader.id, retryMs: reader.retryMs };
}

const STREAMS = [
  ['data: one\n\n', [['message', 'one', '']]],
  ['data: one\r\n\r\ndata: two\r\rdata: three\n\n', [['message', 'one', ''], ['message', 'two', ''], ['message', 'three', '']]],
  ['event: x\ndata: a\ndata:b\ndata:  c\nid: 7\n\n', [['x', 'a\nb\n c', '7']]],
  [': comment\n\ndata: after\n\n', [['message', 'after', '']]],
  ['event: nothing\n\ndata: plain\n\n', [['message', 'plain', '']]],
  ['data\n\n', [['message', '', '']]],
  ['data:\ndata:\n\n', [['message', '\n', '']]],
  ['id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n', [['message', 'a', '1'], ['message', 'b', '1'], ['message', 'c', '']]],
  ['id: a\0b\ndata: x\n\n', [['message', 'x', '']]],
  ['\ufeffdata: bom\n\n', [['message', 'bom', '']]],
  ['data: \ufeffinside\n\n', [['message', '\ufeffinside', '']]],
  ['unknown: field\nDATA: x\n data: y\ndata: z\n\n', [['message', 'z', '']]],
  ['data: cut off', []],
  ['data: cut off\n', []],
];

test('every stream, whole and cut in every place', () => {
  for (const [stream, wanted] of STREAMS) {
    const expected = wanted.map(([event, data, id]) => ({ event, data, id }));
    assert.deepEqual(read([stream]).events, expected, JSON.stringify(stream));
    assert.deepEqual(read([...stream]).events, expected, `by characters: ${JSON.stringify(stream)}`);
    for (let at = 1; at < stream.length; at += 1) {
      const pieces = [stream.slice(0, at), '', stream.slice(at)];
      assert.deepEqual(read(pieces).events, expected, `cut at ${at}: ${JSON.stringify(stream)}`);
    }
  }
});

test('an event that was cut off is no place to resume from', () => {
  assert.equal(read(['id: 1\ndata: a\n\nid: 2\ndata: b\n'], '0').id, '1');
  assert.equal(read(['id: 3\n\n'], '0').id, '3');
});

test('the time to wait is taken when it is a number', () => {
  assert.equal(read(['retry: 2500\n\n']).retryMs, 2500);
  assert.equal(read(['retry: 2500\nretry: soon\nretry: -1\nretry:\n\n']).retryMs, 2500);
  assert.equal(read(['data: x\n\n']).retryMs, undefined);
});
