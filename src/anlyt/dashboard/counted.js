// How each number comes about, in the words of the documentation ("How numbers are counted").

const COHORT =
  "A message belongs to the UTC hour in which it was submitted, whenever its outcome arrives. So a receipt that comes a day late changes yesterday's numbers, a rate never exceeds 100 %, and “pending” means: submitted in this time, outcome still unknown.";
const ONCE =
  "Every event is counted once. Its source and id are claimed in the same database transaction that adds it, so a duplicate, a redelivery or a restart changes nothing.";

export const COUNTED = {
  numbers: {
    text: [
      COHORT,
      ONCE,
      "Delivery rate is delivered ÷ submitted, and a dash where nothing was submitted. The change compares with the period of the same length just before.",
      "The average latency is the sum of all samples ÷ their number. The 95th percentile is that of the samples themselves, from added histograms (at most 1 % off); percentiles are never averaged. For the platform it covers messages that went to an operator; an account has none, because samples are kept by operator and percentiles of parts cannot be added up.",
      "Cost is added from decimal amounts with six places, without rounding.",
    ],
    formula: "submitted = delivered + failed + pending",
  },
  volume: { text: [COHORT, ONCE, "The last column is still growing while its hour or day is not over."], formula: "submitted = delivered + failed + pending" },
  latency: {
    text: [
      "Latency is the time from submission to the delivery receipt; the event may carry it, otherwise it is the difference of the two times. A sample belongs to the hour of the submission.",
      "Average: sum ÷ number of samples. 95th percentile: nearest rank over all samples of the time shown, from added histograms, at most 1 % off. It exists for operators; the platform's is that of all operators' samples together. Accounts have none, because samples are kept by operator. A gap means no samples.",
    ],
  },
  peak: {
    text: [
      "The largest number of messages submitted in one second of UTC, exact for any number of workers. For an operator, messages routed to it count too.",
      "Peaks of different operators or accounts are not added: they need not have been in the same second.",
    ],
  },
  operators: {
    text: [
      COHORT,
      "Worst first: the lowest delivery rate is on top. When a message is routed on to another operator, it counts as failed for the first and as submitted for the second, so the operators' sum may exceed the platform's.",
      "The small line is the failure rate over the period. The worst hour or day is the one in which most more messages failed than the operator's failure rate of the whole period would make; it is named when they are twice as many, and three more.",
    ],
  },
  accounts: {
    text: [
      "Whole days of UTC that the period touches, because segments are kept by the day.",
      "Cost is every amount that an event carried for the account's messages, with six decimals, added without rounding. Segments are those of the submitted messages. Accounts that have a name and sent nothing are named below; their rates would be a dash.",
    ],
  },
  counting: {
    text: [
      ONCE,
      "Counted events changed a number; duplicates were seen before and changed none; dead letters could not be counted and are kept whole. Lost are messages that the stream dropped before they were read, which its limits should never allow.",
      "Late for the peak: events whose second was no longer kept when they came. They are counted everywhere, but may be missing in a peak rate; the history of a backfill is always so.",
    ],
  },
  letters: {
    text: [
      "What cannot be counted is kept whole, in the transaction of its batch, with the first reason that applies and the field that is wrong.",
      "A retry judges a letter by today's rules and settings and counts it exactly once if it passes. A discard marks it and keeps it.",
    ],
  },
  hours: { text: [COHORT, "One row for each hour with traffic. “Final” means that no accepted event can change the hour any more."] },
  usage: { text: [COHORT, "One row for each day of UTC with traffic. “Final” means that no accepted event can change the day any more."] },
};
