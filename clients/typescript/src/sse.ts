/** Server-sent events by the letter of the HTML standard, section 9.2.6: pieces of a stream in, events out. */

/** One event. `id` is the last one the stream has named, its own or an earlier one's. */
export interface StreamEvent {
  event: string;
  data: string;
  id: string;
}

/** Reads a stream, piece by piece; keeps what has not ended yet. `id` is where to resume, `retryMs` how long to wait. */
export class EventReader {
  id: string;
  retryMs: number | undefined;
  #rest = '';
  #idBuffer: string;
  #begun = false;
  #afterReturn = false;
  #event = '';
  #data: string[] = [];

  constructor(lastEventId = '') {
    this.id = lastEventId;
    this.#idBuffer = lastEventId;
  }

  /** The events that a piece completes. An event without its blank line at the end of the stream is none. */
  *read(piece: string): Generator<StreamEvent> {
    let text = piece;
    if (!this.#begun && text !== '') {
      this.#begun = true;
      if (text.startsWith('\ufeff')) text = text.slice(1);
    }
    // A line may end in \r\n, \n or \r, and the \n of \r\n may come with the next piece.
    if (this.#afterReturn && text !== '') {
      if (text.startsWith('\n')) text = text.slice(1);
      this.#afterReturn = false;
    }
    this.#afterReturn = text.endsWith('\r');
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      const event = this.#line(line);
      if (event !== undefined) yield event;
    }
  }

  #line(line: string): StreamEvent | undefined {
    if (line === '') return this.#dispatch();
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') this.#event = value;
    else if (field === 'data') this.#data.push(value);
    else if (field === 'id' && !value.includes('\0')) this.#idBuffer = value;
    else if (field === 'retry' && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
    return undefined;
  }

  #dispatch(): StreamEvent | undefined {
    this.id = this.#idBuffer; // not before: an event that was cut off has not been received
    const found = { event: this.#event || 'message', data: this.#data.join('\n'), id: this.id };
    const empty = this.#data.length === 0;
    this.#event = '';
    this.#data = [];
    return empty ? undefined : found;
  }
}
