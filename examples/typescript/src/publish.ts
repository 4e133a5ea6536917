// Send events over HTTP and read the fate of each. After a timeout or a 5xx the same events are sent again: the same
// source and id count once.
import { randomUUID } from "node:crypto";
import { Anlyt, AnlytProblem, type EventOf, type Receipt } from "@anlyt/client";

const { API_URL: baseUrl, API_KEY: key } = process.env;
if (!baseUrl || !key) throw new Error("set API_URL and API_KEY");

const ATTEMPTS = 5;

const client = new Anlyt({ baseUrl, key, timeoutMs: 10_000 });

function submitted(segments: number): EventOf<"message.submitted"> {
  return {
    specversion: "1.0",
    id: randomUUID(),
    source: "/examples/typescript",
    type: "message.submitted",
    time: new Date().toISOString(),
    data: {
      messageId: randomUUID(),
      accountId: "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001",
      segments,
      cost: "0.041250", // text, so that no float touches money
    },
  };
}

async function send(events: EventOf<"message.submitted">[]): Promise<Receipt> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await client.publish(events);
    } catch (error) {
      const refused = error instanceof AnlytProblem && error.status !== 429 && error.status < 500;
      if (refused || attempt === ATTEMPTS) throw error;
      const seconds = error instanceof AnlytProblem ? (error.retryAfterSeconds ?? 0) : 0;
      await new Promise((resolve) => setTimeout(resolve, Math.max(seconds * 1_000, 100 * 2 ** attempt)));
    }
  }
}

const { data } = await send([submitted(1), submitted(2), submitted(0)]);
for (const { fate, detail } of data) console.log(fate, detail ?? "");
