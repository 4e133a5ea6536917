/** The reader of JSON is JSON.parse, but for integers that a number cannot hold. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse, stringify } from '../../dist/index.js';

const ROUNDS = 20_000;
const PIECES = [
  ...'{}[]:,"\\ \t\n-+.eE0123456789',
  'null', 'true', 'false', '"a"', '"\\u0000"', '"\\ud83d\\ude00"', '"é"', '1.5', '-0', '1e3', '12', '{"a":1}', '[1]', 'x', '\u0001',
];

/** A generator of numbers from 0 to 1 that is the same for the same seed. */
function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function attempt(read, text) {
  try {
    return { value: read(text) };
  } catch (error) {
    assert.ok(error instanceof SyntaxError, `${error}`);
    return { refused: true };
  }
}

/** With every bigint as the number JSON.parse makes of it. */
function rounded(value) {
  if (typeof value === 'bigint') return Number(value);
  if (Array.isArray(value)) return value.map(rounded);
  if (typeof value !== 'object' || value === null) return value;
  const copy = {};
  for (const [name, each] of Object.entries(value)) {
    Object.defineProperty(copy, name, { value: rounded(each), enumerable: true, writable: true, configurable: true });
  }
  return copy;
}

function someValue(random, depth = 0) {
  const kind = Math.floor(random() * (depth > 3 ? 6 : 8));
  if (kind === 0) return null;
  if (kind === 1) return random() < 0.5;
  if (kind === 2) return Math.floor(random() * 1e6) - 5e5;
  if (kind === 3) return (random() - 0.5) * 10 ** Math.floor(random() * 40 - 20);
  if (kind === 4) return String.fromCharCode(...Array.from({ length: 5 }, () => Math.floor(random() * 0xffff)));
  if (kind === 5) return Number.MAX_SAFE_INTEGER - Math.floor(random() * 10);
  const items = Array.from({ length: Math.floor(random() * 4) }, () => someValue(random, depth + 1));
  return kind === 6 ? items : Object.fromEntries(items.map((item) => [`k${Math.floor(random() * 5)}`, item]));
}

test('what JSON.stringify writes is read as JSON.parse reads it', () => {
  const random = seeded(1);
  for (let round = 0; round < ROUNDS; round += 1) {
    const value = someValue(random);
    const text = JSON.stringify(value, null, round % 3);
    assert.deepStrictEqual(rounded(parse(text)), JSON.parse(text), text);
    assert.deepStrictEqual(JSON.parse(stringify(value)), JSON.parse(JSON.stringify(value)), text);
  }
});

test('whatever text is refused by one is refused by the other', () => {
  const random = seeded(2);
  let taken = 0;
  for (let round = 0; round < ROUNDS * 5; round += 1) {
    const length = 1 + Math.floor(random() * 8);
    const text = Array.from({ length }, () => PIECES[Math.floor(random() * PIECES.length)]).join('');
    const ours = attempt(parse, text);
    if (!ours.refused) taken += 1;
    assert.deepStrictEqual({ ...ours, ...('value' in ours && { value: rounded(ours.value) }) }, attempt(JSON.parse, text), text);
  }
  assert.ok(taken > 1_000, `only ${taken} of the texts were JSON`);
});

test('a text that is changed in one place is judged alike', () => {
  const random = seeded(3);
  for (let round = 0; round < ROUNDS; round += 1) {
    const text = JSON.stringify(someValue(random));
    const at = Math.floor(random() * text.length);
    const piece = random() < 0.3 ? '' : PIECES[Math.floor(random() * PIECES.length)];
    const changed = text.slice(0, at) + piece + text.slice(at + 1);
    const ours = attempt(parse, changed);
    const theirs = attempt(JSON.parse, changed);
    assert.deepStrictEqual({ ...ours, ...('value' in ours && { value: rounded(ours.value) }) }, theirs, changed);
  }
});

test('integers survive that a number would round', () => {
  for (const digits of ['9007199254740993', '-9007199254740993', '9223372036854775807', '-9223372036854775808']) {
    assert.equal(parse(digits), BigInt(digits));
    assert.equal(stringify(parse(`[${digits}]`)), `[${digits}]`);
  }
  assert.equal(parse('9007199254740991'), 9007199254740991);
  assert.ok(Object.is(parse('-0'), -0));
});

test('members called __proto__ are members', () => {
  const value = parse('{"__proto__": {"x": 1}, "a": 2}');
  assert.deepEqual(Object.keys(value), ['__proto__', 'a']);
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
});

test('bigint, Date and what is not there are written', () => {
  const value = { count: 2n ** 63n - 1n, at: new Date(0), nothing: undefined, list: [undefined, 1n] };
  assert.equal(stringify(value), '{"count":9223372036854775807,"at":"1970-01-01T00:00:00.000Z","list":[null,1]}');
  assert.throws(() => stringify(() => 1), TypeError);
});
