// Read the platform's days, page by page. Counts are 64-bit integers and arrive as bigint, money as text with six
// decimals, instants as Date: nothing is rounded on the way.
import { Anlyt } from "@anlyt/client";

const { API_URL: baseUrl, API_KEY: key } = process.env;
if (!baseUrl || !key) throw new Error("set API_URL and API_KEY");

const client = new Anlyt({ baseUrl, key });
let messages = 0n;
let completeThrough: Date | null = null;
for await (const { data, meta } of client.daily({ scope: "PLATFORM", from: "-30d", limit: 10 }).pages()) {
  for (const day of data) {
    messages += day.totalMessages;
    const rate = day.deliveryRate === null ? "-" : `${(day.deliveryRate * 100).toFixed(1)} %`;
    console.log(day.dayBucket.toISOString().slice(0, 10), day.totalMessages.toString(), rate, day.totalCost, meta.currency);
  }
  ({ completeThrough } = meta);
}
console.log("complete through", completeThrough?.toISOString() ?? "unknown: nothing has been counted yet");
console.log(`${messages} messages`);
