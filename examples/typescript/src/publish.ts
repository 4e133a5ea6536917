// Send events over HTTP and read the fate of each. After a timeout or a 5xx the same events are sent again: the same
// source and id count once.
import { randomUUID } from "node:crypto";

const url = process.env.API_URL;
const key = process.env.API_KEY;
if (!url || !key) throw new Error("set API_URL and API_KEY");

const ATTEMPTS = 5;

interface Fate {
  index: number;
  fate: "accepted" | "duplicate" | "ignored" | "rejected";
  reason?: string;
  detail?: string;
}

function submitted(segments: number): object {
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

async function send(events: object[]): Promise<Fate[]> {
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(`${url}/v1/events`, {
      method: "POST",
      headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/cloudevents-batch+json" },
      body: JSON.stringify(events),
      signal: AbortSignal.timeout(10_000),
    }).catch((error: unknown) => error as Error);
    if (response instanceof Response && response.ok) {
      return ((await response.json()) as { data: Fate[] }).data;
    }
    const passing = response instanceof Error || response.status === 429 || response.status >= 500;
    if (!passing || attempt === ATTEMPTS) {
      throw response instanceof Error ? response : new Error(`${response.status}: ${await response.text()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** attempt));
  }
}

const events = [submitted(1), submitted(2), submitted(0)];
for (const { fate, detail } of await send(events)) {
  console.log(fate, detail ?? "");
}
