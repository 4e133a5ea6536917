/**
 * JSON without rounding. JSON.parse reads 9007199254740993 as ...992; here an integer that a number cannot hold becomes
 * a bigint, and everything else is what JSON.parse makes of it. Writing takes bigint and Date besides.
 */

export type Json = null | boolean | number | bigint | string | Json[] | { [member: string]: Json };

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const SPACE = /[ \t\r\n]*/y;
const WORDS: readonly (readonly [string, Json])[] = [
  ['null', null],
  ['true', true],
  ['false', false],
];

/** The value of a JSON text. Throws SyntaxError for what is none. */
export function parse(text: string): Json {
  const reader = new Reader(text);
  const value = reader.value();
  reader.end();
  return value;
}

class Reader {
  #at = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  value(): Json {
    this.#skip();
    const first = this.#text[this.#at];
    if (first === '{') return this.#object();
    if (first === '[') return this.#array();
    if (first === '"') return this.#string();
    for (const [word, value] of WORDS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    return this.#number();
  }

  end(): void {
    this.#skip();
    if (this.#at < this.#text.length) throw this.#error();
  }

  #object(): Json {
    const object: { [member: string]: Json } = {};
    this.#at += 1;
    if (this.#take('}')) return object;
    do {
      this.#skip();
      if (this.#text[this.#at] !== '"') throw this.#error();
      const name = this.#string();
      this.#expect(':');
      const value = this.value();
      // An assignment to __proto__ would make no member.
      Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true });
    } while (this.#take(','));
    this.#expect('}');
    return object;
  }

  #array(): Json {
    const array: Json[] = [];
    this.#at += 1;
    if (this.#take(']')) return array;
    do array.push(this.value());
    while (this.#take(','));
    this.#expect(']');
    return array;
  }

  #string(): string {
    const start = this.#at;
    let at = start + 1;
    for (;;) {
      const sign = this.#text.charCodeAt(at);
      if (Number.isNaN(sign)) throw this.#error();
      if (sign === 0x22) break;
      at += sign === 0x5c ? 2 : 1;
    }
    this.#at = at + 1;
    return JSON.parse(this.#text.slice(start, this.#at)) as string;
  }

  #number(): Json {
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.#text);
    if (match === null) throw this.#error();
    this.#at += match[0].length;
    const value = Number(match[0]);
    const whole = match[1] === undefined && match[2] === undefined;
    return whole && !Number.isSafeInteger(value) ? BigInt(match[0]) : value;
  }

  #skip(): void {
    SPACE.lastIndex = this.#at;
    SPACE.exec(this.#text);
    this.#at = SPACE.lastIndex;
  }

  #take(sign: string): boolean {
    this.#skip();
    if (this.#text[this.#at] !== sign) return false;
    this.#at += 1;
    return true;
  }

  #expect(sign: string): void {
    if (!this.#take(sign)) throw this.#error();
  }

  #error(): SyntaxError {
    const found = this.#at < this.#text.length ? JSON.stringify(this.#text[this.#at]) : 'the end';
    return new SyntaxError(`this is not JSON: ${found} at position ${this.#at}`);
  }
}

/** A value as JSON text: bigint as digits, Date in UTC; members that are undefined are left out. */
export function stringify(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Date) return JSON.stringify(value.toISOString());
  if (Array.isArray(value)) return `[${value.map((item) => stringify(item ?? null)).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${stringify(member)}`).join(',')}}`;
  }
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) throw new TypeError(`a ${typeof value} has no JSON`);
  return text;
}
