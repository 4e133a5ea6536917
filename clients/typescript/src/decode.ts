/** JSON values to ours, by the shapes of the records: int64 to bigint, instants to Date. Nothing is guessed. */

import type { Json } from './json.js';
import { SHAPES, type Shape } from './schema.js';

/** The service answered something that is not what its description says: client and service do not fit. */
export class ShapeError extends Error {
  override readonly name = 'ShapeError';
}

/** A value by its shape. Throws ShapeError for one that is not of that shape; null and what is not there stay so. */
export function decode(value: Json | undefined, shape: Shape, place = 'the answer'): unknown {
  if (value === null || value === undefined) return value;
  if (typeof shape !== 'string') return decodeParts(value, shape, place);
  if (shape === 'bigint') return toBigInt(value, place);
  if (shape === 'Date') return toDate(value, place);
  const members = SHAPES[shape];
  if (members === undefined) throw new ShapeError(`there is no record ${shape}`);
  const found: Record<string, unknown> = { ...toObject(value, place) };
  for (const [name, inner] of Object.entries(members)) {
    if (name in found) found[name] = decode(found[name] as Json, inner, `${shape}.${name}`);
  }
  return found;
}

function decodeParts(value: Json, shape: Exclude<Shape, string>, place: string): unknown {
  if ('*' in shape) {
    const entries = Object.entries(toObject(value, place));
    return Object.fromEntries(entries.map(([name, each]) => [name, decode(each, shape['*'], place)]));
  }
  if (!Array.isArray(value)) throw new ShapeError(`${place} is not an array`);
  return value.map((item) => decode(item, shape[0], place));
}

function toObject(value: Json, place: string): { [member: string]: Json } {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new ShapeError(`${place} is not an object`);
}

function toBigInt(value: Json, place: string): bigint {
  if (typeof value === 'bigint') return value;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return BigInt(value);
  throw new ShapeError(`${place} is not an integer: ${String(value)}`);
}

function toDate(value: Json, place: string): Date {
  const date = new Date(typeof value === 'string' ? value : Number.NaN);
  if (Number.isNaN(date.getTime())) throw new ShapeError(`${place} is not an instant: ${String(value)}`);
  return date;
}
