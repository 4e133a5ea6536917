// Read the platform's days with plain fetch. Counts are 64-bit integers: beyond 2^53 a JSON number loses digits in
// JavaScript, so they are turned into text before JSON.parse sees them, and into bigint after.
const url = process.env.API_URL;
const key = process.env.API_KEY;
if (!url || !key) throw new Error("set API_URL and API_KEY");

interface Day {
  dayBucket: string;
  totalMessages: string;
  deliveredMessages: string;
  totalCost: string; // six decimals
  deliveryRate: number | null;
  final: boolean;
}

interface Page {
  data: Day[];
  next: string | null;
  meta: { completeThrough: string | null; currency: string };
}

async function get(path: string, parameters: Record<string, string>): Promise<Page> {
  const response = await fetch(`${url}${path}?${new URLSearchParams(parameters)}`, {
    headers: { Authorization: `Bearer ${key}` },
  });
  const text = await response.text();
  if (!response.ok) throw new Error((JSON.parse(text) as { detail: string }).detail);
  return JSON.parse(text.replace(/("\w+Messages":)(-?\d+)/g, '$1"$2"')) as Page;
}

let messages = 0n;
let cursor: string | null = null;
do {
  const page: Page = await get("/v1/metrics/daily", {
    scope: "PLATFORM",
    from: "-30d",
    limit: "10",
    ...(cursor === null ? {} : { cursor }),
  });
  for (const day of page.data) {
    messages += BigInt(day.totalMessages);
    const rate = day.deliveryRate === null ? "-" : `${(day.deliveryRate * 100).toFixed(1)} %`;
    console.log(day.dayBucket.slice(0, 10), day.totalMessages, rate, day.totalCost, page.meta.currency);
  }
  cursor = page.next;
  if (cursor === null) console.log("complete through", page.meta.completeThrough);
} while (cursor !== null);
console.log(`${messages} messages`);
