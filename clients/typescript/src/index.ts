/** Client of the anlyt HTTP API. */

export { Anlyt } from './client.js';
export type {
  CloudEvent,
  DeadLetterQuery,
  Download,
  EventOf,
  ExportFormat,
  LiveEvent,
  LiveOptions,
  LiveQuery,
  Options,
  RowQuery,
  Rows,
  SummaryQuery,
  Table,
  Tables,
  Time,
} from './client.js';
export { ShapeError } from './decode.js';
export { AnlytProblem } from './problem.js';
export { parse, stringify } from './json.js';
export type { Json } from './json.js';
export type * from './rows.js';
export type * from './schema.js';
