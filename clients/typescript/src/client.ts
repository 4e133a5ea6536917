/**
 * The routes of the API as methods. Answers are decoded without loss: int64 as bigint, instants as Date, money as the
 * string it is. What is no good answer is thrown as AnlytProblem; what never arrived, as whatever fetch throws.
 */

import { decode, ShapeError } from './decode.js';
import { type Json, parse, stringify } from './json.js';
import { AnlytProblem, readProblem } from './problem.js';
import {
  type AccountsPage,
  type AnsweredAccountUsageDailyRow,
  type AnsweredMetricsDailyRow,
  type AnsweredMetricsHourlyRow,
  type AnsweredOperatorPerformanceRow,
  type Choice,
  type DailyPage,
  type DiscardedPart,
  type HourlyPage,
  LIVE_SHAPES,
  type Listed,
  type ListedPage,
  type LiveData,
  type MessageCharged,
  type MessageDelivered,
  type MessageFailed,
  type MessageRouted,
  type MessageSubmitted,
  type OperatorError,
  type OperatorsPage,
  type Receipt,
  type RetriedPart,
  type RetryChoice,
  type Shown,
  type ShownLetters,
  type Status,
  type Summary,
} from './schema.js';
import { EventReader } from './sse.js';

/** How long a request may take, but for streams. */
const TIMEOUT_MS = 30_000;
/** How long a live stream may be silent; the service says something every 15 s. */
const SILENCE_MS = 45_000;
/** How long to wait before a live stream is opened again: at first, and at most. */
const RETRY_MS = { first: 1_000, most: 30_000 };

export interface Options {
  /** Where the API is, like `http://127.0.0.1:8080`. */
  baseUrl: string;
  /** An API key, or the token of an identity provider. */
  key: string;
  /** Instead of the global fetch. */
  fetch?: typeof fetch;
  /** How long a request may take, in milliseconds; streams have no such limit. */
  timeoutMs?: number;
}

/** A Date, or text as the API takes it: RFC 3339 with an offset, a date, `now`, `-24h`. */
export type Time = Date | string;
export type Scope = 'PLATFORM' | 'OPERATOR' | 'ACCOUNT';
export type Ids = string | readonly string[];

interface Period {
  from?: Time;
  to?: Time;
  /** Rows of one page. */
  limit?: number;
}

export interface ScopedQuery extends Period {
  scope?: Scope;
  scopeId?: Ids;
}

/** The row tables: what each answers and what it can be asked. */
export interface Tables {
  hourly: { row: AnsweredMetricsHourlyRow; page: HourlyPage; query: ScopedQuery };
  daily: { row: AnsweredMetricsDailyRow; page: DailyPage; query: ScopedQuery };
  operators: { row: AnsweredOperatorPerformanceRow; page: OperatorsPage; query: Period & { operatorId?: Ids } };
  accounts: { row: AnsweredAccountUsageDailyRow; page: AccountsPage; query: Period & { accountId?: Ids } };
}
export type Table = keyof Tables;
export type RowQuery<T extends Table> = Tables[T]['query'];
export type ExportFormat = 'csv' | 'ndjson' | 'parquet';

export interface SummaryQuery extends ScopedQuery {
  groupBy?: 'none' | 'scopeId' | 'hour' | 'day' | 'month';
  timezone?: string;
  sort?: string;
  order?: 'desc' | 'asc';
  compare?: 'previous';
}

export interface DeadLetterQuery {
  reason?: string;
  state?: string;
  limit?: number;
}

export type CloudEvent =
  | MessageSubmitted
  | MessageRouted
  | MessageDelivered
  | MessageFailed
  | MessageCharged
  | OperatorError;
/** The event of a type: `EventOf<'message.delivered'>`. */
export type EventOf<T extends CloudEvent['type']> = Extract<CloudEvent, { type: T }>;

/** A file as it arrives. When the stream breaks, what has arrived is not the whole. */
export interface Download {
  stream: ReadableStream<Uint8Array>;
  filename: string;
  asOf: Date | null;
  completeThrough: Date | null;
}

export interface LiveQuery {
  scope?: Scope;
  scopeId?: Ids;
}

export interface LiveOptions {
  /** Ends the stream. */
  signal?: AbortSignal;
  /** `id` of the last event that was received: what changed since is sent first. */
  lastEventId?: string;
}

/** One live event; `id` is the place from which `lastEventId` resumes. */
export type LiveEvent = {
  [E in keyof LiveData]: { event: E; data: LiveData[E]; id: string };
}[keyof LiveData];

/** Rows that are fetched page by page while they are read. */
export interface Rows<Row, Page> extends AsyncIterable<Row> {
  /** The same by pages, each with its `meta`. */
  pages(): AsyncGenerator<Page, void>;
}

type Query = object;

const ROUTES: { readonly [T in Table]: { path: string; page: string; row: string } } = {
  hourly: { path: 'v1/metrics/hourly', page: 'HourlyPage', row: 'MetricsHourlyRow' },
  daily: { path: 'v1/metrics/daily', page: 'DailyPage', row: 'MetricsDailyRow' },
  operators: { path: 'v1/operators/performance', page: 'OperatorsPage', row: 'OperatorPerformanceRow' },
  accounts: { path: 'v1/accounts/usage', page: 'AccountsPage', row: 'AccountUsageDailyRow' },
};

export class Anlyt {
  readonly #base: URL;
  readonly #key: string;
  readonly #fetch: typeof fetch;
  readonly #timeoutMs: number;

  constructor(options: Options) {
    this.#base = new URL(options.baseUrl.endsWith('/') ? options.baseUrl : `${options.baseUrl}/`);
    this.#key = options.key;
    this.#fetch = options.fetch ?? ((...asked) => fetch(...asked));
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  }

  // ------------------------------------------------------------------------------------------------------- numbers

  /** Hourly rows of every scope. */
  hourly(query: RowQuery<'hourly'> = {}): Rows<AnsweredMetricsHourlyRow, HourlyPage> {
    return this.#rows('hourly', query);
  }

  /** Daily rows (UTC) of every scope. */
  daily(query: RowQuery<'daily'> = {}): Rows<AnsweredMetricsDailyRow, DailyPage> {
    return this.#rows('daily', query);
  }

  /** Hourly performance of operators. */
  operators(query: RowQuery<'operators'> = {}): Rows<AnsweredOperatorPerformanceRow, OperatorsPage> {
    return this.#rows('operators', query);
  }

  /** Daily usage and cost of accounts. */
  accounts(query: RowQuery<'accounts'> = {}): Rows<AnsweredAccountUsageDailyRow, AccountsPage> {
    return this.#rows('accounts', query);
  }

  /** Sums over a period. */
  async summary(query: SummaryQuery = {}): Promise<Summary> {
    return (await this.#json('v1/summary', query, 'Summary')) as Summary;
  }

  /** Up to when everything has been counted; for platform staff, the whole state. */
  async status(): Promise<Status> {
    return (await this.#json('v1/status', {}, 'Status')) as Status;
  }

  // -------------------------------------------------------------------------------------------------------- events

  /**
   * Publish events, at most 1,000 at once. The receipt has the fate of each, in order. Sending the same again after an
   * error is safe. Throws AnlytProblem `no-valid-event`, with `events`, when none of them can be counted.
   */
  async publish(events: CloudEvent | readonly CloudEvent[]): Promise<Receipt> {
    const kind = Array.isArray(events) ? 'application/cloudevents-batch+json' : 'application/cloudevents+json';
    return (await this.#json('v1/events', {}, 'Receipt', { body: events, kind })) as Receipt;
  }

  // --------------------------------------------------------------------------------------------------------- files

  /** A whole period as a file, as it arrives. */
  async export<T extends Table>(table: T, format: ExportFormat, query: RowQuery<T> = {}): Promise<Download> {
    const response = await this.#answer(ROUTES[table].path, { ...query, format }, {});
    const { headers, body } = response;
    if (body === null) throw new TypeError('the answer has no body');
    return {
      stream: body,
      filename: /filename="([^"]*)"/.exec(headers.get('content-disposition') ?? '')?.[1] ?? `${table}.${format}`,
      asOf: toDate(headers.get('anlyt-as-of')),
      completeThrough: toDate(headers.get('anlyt-complete-through')),
    };
  }

  /** All rows of a period from one snapshot, as they arrive. Throws when the stream breaks before its end. */
  async *exportRows<T extends Table>(table: T, query: RowQuery<T> = {}): AsyncGenerator<Tables[T]['row'], void> {
    const { stream } = await this.export(table, 'ndjson', query);
    let rest = '';
    for await (const piece of decoded(stream)) {
      const lines = (rest + piece).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) yield decode(parse(line), ROUTES[table].row) as Tables[T]['row'];
    }
    if (rest !== '') throw new Error('the export ended in the middle of a row');
  }

  // ---------------------------------------------------------------------------------------------------------- live

  /**
   * Rows as they change. A stream that ends or breaks is resumed where it was; only what cannot get better by waiting
   * (a key that is not valid, a wrong parameter) is thrown. Ends when `signal` says so, or the loop is left.
   */
  async *live(query: LiveQuery = {}, options: LiveOptions = {}): AsyncGenerator<LiveEvent, void> {
    const { signal } = options;
    const reader = { lastEventId: options.lastEventId ?? '', waitMs: RETRY_MS.first };
    while (!isOver(signal)) {
      try {
        yield* this.#listen(query, reader, signal);
      } catch (error) {
        if (isOver(signal)) return;
        const wait = waitFor(error);
        if (wait === undefined) throw error;
        reader.waitMs = Math.max(wait, Math.min(reader.waitMs * 2, RETRY_MS.most));
      }
      await pause(reader.waitMs * (0.5 + Math.random() / 2), signal);
    }
  }

  async *#listen(
    query: LiveQuery,
    reader: { lastEventId: string; waitMs: number },
    signal: AbortSignal | undefined,
  ): AsyncGenerator<LiveEvent, void> {
    const silence = new Silence(SILENCE_MS, signal);
    try {
      const resume = reader.lastEventId === '' ? {} : { 'last-event-id': reader.lastEventId };
      const headers = { accept: 'text/event-stream', ...resume };
      const response = await this.#answer('v1/live', query, { headers, signal: silence.signal });
      if (response.body === null) throw new TypeError('the answer has no body');
      const events = new EventReader(reader.lastEventId);
      for await (const piece of decoded(response.body)) {
        silence.heard();
        for (const { event, data, id } of events.read(piece)) {
          reader.lastEventId = id;
          reader.waitMs = events.retryMs ?? RETRY_MS.first;
          if (Object.hasOwn(LIVE_SHAPES, event)) {
            const name = event as keyof LiveData;
            yield { event: name, data: decode(parse(data), LIVE_SHAPES[name]), id } as LiveEvent;
          }
        }
      }
    } finally {
      silence.end();
    }
  }

  // -------------------------------------------------------------------------------------------------- dead letters

  /** Dead letters, the newest first; for platform staff. */
  deadLetters(query: DeadLetterQuery = {}): Rows<Listed, ListedPage> {
    return new Paged((cursor) => this.#page('v1/dead-letters', query, 'ListedPage', cursor));
  }

  /** The letters at one place of the stream, whole. */
  async deadLetter(sequence: bigint | number, index = 0): Promise<Shown[]> {
    const found = await this.#json(`v1/dead-letters/${sequence}/${index}`, {}, 'ShownLetters');
    return (found as ShownLetters).data;
  }

  /** Retry open letters. When `next` is not null, the same with it as `cursor` goes on. */
  async retryDeadLetters(choice: RetryChoice): Promise<RetriedPart> {
    return (await this.#json('v1/dead-letters/retry', {}, 'RetriedPart', { body: choice })) as RetriedPart;
  }

  /** Discard open letters. */
  async discardDeadLetters(choice: Choice): Promise<DiscardedPart> {
    return (await this.#json('v1/dead-letters/discard', {}, 'DiscardedPart', { body: choice })) as DiscardedPart;
  }

  // ------------------------------------------------------------------------------------------------------ requests

  #rows<T extends Table>(table: T, query: RowQuery<T>): Rows<Tables[T]['row'], Tables[T]['page']> {
    const { path, page } = ROUTES[table];
    type Page = Tables[T]['page'] & { data: Tables[T]['row'][] };
    return new Paged<Tables[T]['row'], Page>((cursor) => this.#page(path, query, page, cursor));
  }

  async #page<Page>(path: string, query: Query, shape: string, cursor: string | null): Promise<Page> {
    return (await this.#json(path, cursor === null ? query : { ...query, cursor }, shape)) as Page;
  }

  async #json(path: string, query: Query, shape: string, sent?: { body: unknown; kind?: string }): Promise<unknown> {
    const signal = AbortSignal.timeout(this.#timeoutMs);
    const kind = sent?.kind ?? 'application/json';
    const request: RequestInit =
      sent === undefined
        ? { signal }
        : { signal, method: 'POST', body: stringify(sent.body), headers: { 'content-type': kind } };
    const response = await this.#answer(path, query, request);
    return decode(parse(await response.text()), shape);
  }

  async #answer(path: string, query: Query, request: RequestInit): Promise<Response> {
    const url = new URL(path, this.#base);
    for (const [name, value] of parameters(query)) url.searchParams.append(name, value);
    const headers = new Headers(request.headers);
    headers.set('authorization', `Bearer ${this.#key}`);
    const response = await this.#fetch(url, { ...request, headers, redirect: 'error' });
    if (!response.ok) throw await readProblem(response);
    return response;
  }
}

class Paged<Row, Page extends { data: Row[]; next: string | null }> implements Rows<Row, Page> {
  readonly #read: (cursor: string | null) => Promise<Page>;

  constructor(read: (cursor: string | null) => Promise<Page>) {
    this.#read = read;
  }

  async *pages(): AsyncGenerator<Page, void> {
    let cursor: string | null = null;
    do {
      const page: Page = await this.#read(cursor);
      yield page;
      cursor = page.next;
    } while (cursor !== null);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Row, void> {
    for await (const page of this.pages()) yield* page.data;
  }
}

/** Ends a request when nothing was heard for too long, or when its caller's signal says so. */
class Silence {
  readonly #controller = new AbortController();
  readonly #limitMs: number;
  readonly #outer: AbortSignal | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(limitMs: number, outer: AbortSignal | undefined) {
    this.#limitMs = limitMs;
    this.#outer = outer;
    outer?.addEventListener('abort', this.#stop);
    if (outer?.aborted === true) this.#stop();
    this.heard();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  heard(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#stop, this.#limitMs);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener('abort', this.#stop);
    this.#stop(); // a connection that nobody reads any more is closed
  }

  readonly #stop = (): void => {
    this.#controller.abort();
  };
}

/** How long to wait before a live stream is opened again; undefined when waiting does not help. */
function waitFor(error: unknown): number | undefined {
  if (error instanceof AnlytProblem) {
    const passing = error.status === 429 || error.status >= 500;
    return passing ? (error.retryAfterSeconds ?? 0) * 1_000 : undefined;
  }
  // What fetch throws is a connection that broke; what reading threw will be thrown again.
  return error instanceof SyntaxError || error instanceof ShapeError ? undefined : 0;
}

function isOver(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true;
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener('abort', end);
    if (signal?.aborted === true) end();
  });
}

async function* decoded(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield decoder.decode(value, { stream: true });
    }
    yield decoder.decode();
  } finally {
    await reader.cancel().catch(() => undefined); // what is left of it is not wanted
  }
}

function* parameters(query: Query): Generator<[string, string]> {
  for (const [name, value] of Object.entries(query) as [string, Json | Date | undefined][]) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null) yield [name, each instanceof Date ? each.toISOString() : String(each)];
    }
  }
}

function toDate(text: string | null): Date | null {
  return text === null ? null : new Date(text);
}
