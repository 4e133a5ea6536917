/** Compiled, never run: the rows of the tables are, member for member, what the data model says they are. */

import type {
  AccountUsageDailyRow,
  Anlyt,
  AnsweredMetricsHourlyRow,
  EventOf,
  MetricsDailyRow,
  MetricsHourlyRow,
  OperatorPerformanceRow,
  ProcessedEventRow,
  Receipt,
} from '../src/index.js';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function holds<_Proof extends true>(): void {}

type Scope = 'PLATFORM' | 'OPERATOR' | 'ACCOUNT';
interface Counts {
  totalMessages: bigint;
  deliveredMessages: bigint;
  failedMessages: bigint;
  pendingMessages: bigint;
  totalCost: string;
  latencySumMs: bigint;
  latencySampleCount: bigint;
  peakTps: number;
  updatedAt: Date;
}
type Flat<T> = { [K in keyof T]: T[K] };

holds<Same<Flat<MetricsHourlyRow>, Flat<{ hourBucket: Date; scope: Scope; scopeId: string } & Counts>>>();
holds<Same<Flat<MetricsDailyRow>, Flat<{ dayBucket: Date; scope: Scope; scopeId: string } & Counts>>>();
holds<
  Same<
    Flat<OperatorPerformanceRow>,
    Flat<
      { hourBucket: Date; operatorId: string; latencyP95Ms: number | null; errorCount: bigint } & Omit<
        Counts,
        'pendingMessages' | 'totalCost'
      >
    >
  >
>();
holds<
  Same<
    Flat<AccountUsageDailyRow>,
    {
      dayBucket: Date;
      accountId: string;
      messagesSent: bigint;
      messagesDelivered: bigint;
      messagesFailed: bigint;
      totalCost: string;
      totalSegments: bigint;
      updatedAt: Date;
    }
  >
>();
holds<Same<Flat<ProcessedEventRow>, { eventId: string; eventType: string; processedAt: Date }>>();

/** A row that is answered is a row of its table, and more. */
export function narrowed(row: AnsweredMetricsHourlyRow): MetricsHourlyRow {
  const rate: number | null = row.deliveryRate;
  void rate;
  return row;
}

/** What is sent is checked by its type. */
export async function sent(client: Anlyt, event: EventOf<'message.delivered'>): Promise<Receipt> {
  // @ts-expect-error - an event of no known type
  await client.publish({ ...event, type: 'message.lost' });
  // @ts-expect-error - a message without its account
  await client.publish({ ...event, data: { messageId: 'm-1', submittedAt: new Date() } });
  // @ts-expect-error - operators are asked by operatorId
  client.operators({ scopeId: 'x' });
  return await client.publish([event]);
}
