/** What the API answers when it cannot do what was asked: RFC 9457 problem details as an Error. */

import { decode } from './decode.js';
import { parse } from './json.js';
import type { Fate, Problem } from './schema.js';

const BASE = 'urn:anlyt:problem:';

/** An answer that is no good one. `kind` is stable, for programs; `message` says what happened and what to do. */
export class AnlytProblem extends Error {
  override readonly name = 'AnlytProblem';
  /** The HTTP status. */
  readonly status: number;
  /** The last word of `type`, like `invalid-parameter`; `unknown` for an answer that is no problem document. */
  readonly kind: string;
  /** The same without the particulars. */
  readonly title: string;
  /** The parameter that is wrong, if one is. */
  readonly parameter: string | undefined;
  /** Of events that were sent: the fate of each. */
  readonly events: readonly Fate[] | undefined;
  /** Seconds after which it makes sense to ask again, if the answer says so. */
  readonly retryAfterSeconds: number | undefined;
  /** The request's line in the service's log. */
  readonly requestId: string | undefined;

  constructor(status: number, headers: Headers, problem: Partial<Problem>) {
    super(problem.detail ?? problem.title ?? `the service answered with status ${status}`);
    this.status = status;
    this.kind = problem.type?.startsWith(BASE) === true ? problem.type.slice(BASE.length) : 'unknown';
    this.title = problem.title ?? '';
    this.parameter = problem.parameter;
    this.events = problem.events;
    const wait = headers.get('retry-after');
    this.retryAfterSeconds = wait !== null && /^[0-9]+$/.test(wait) ? Number(wait) : undefined;
    this.requestId = headers.get('x-request-id') ?? undefined;
  }
}

/** The problem a response carries; of something else (a proxy's page) the status alone. */
export async function readProblem(response: Response): Promise<AnlytProblem> {
  const text = await response.text();
  const isProblem = response.headers.get('content-type')?.startsWith('application/problem+json') === true;
  const problem = isProblem ? (decode(parse(text), 'Problem') as Problem) : {};
  return new AnlytProblem(response.status, response.headers, problem);
}
