// How much of the model's context a conversation takes, and which turns are left out once it is full.
// The rule is the terminal's (generate/conversation.py): the oldest whole turns go, and with them some more, so that the
// next questions find room; the system prompt stays.

import { contentOf, leftOut, messagesTo, shownPath } from "../conversation/tree.js";
import { Fault } from "../server/fault.js";
import { tokensOf } from "../server/client.js";

const RESERVE = 512;
// Around a message; a template's own system prompt comes on top.
const MARKS = 12;
const TEMPLATE = 96;

const encoder = new TextEncoder();

/** No text has more tokens than bytes. */
function mostTokens(messages) {
  return messages.reduce((sum, { content }) => sum + encoder.encode(content).length + MARKS, TEMPLATE);
}

/**
 * The messages that ask a question, and how many of the oldest turns they leave out: {messages, dropped}.
 * `policy`: "drop" or "refuse". Raises Fault("tooLong" or "full") with the counts.
 */
export async function fitting(conversation, questionId, { info, settings, policy, key }) {
  let dropped = leftOut(conversation, questionId);
  const all = (count) => messagesTo(conversation, questionId, count);
  const context = info?.context_length;
  if (!context) return { messages: all(dropped), dropped };
  const wanted = settings.max_tokens ?? info.sampling.find(({ name }) => name === "max_tokens")?.default ?? Infinity;
  const reserve = Math.max(1, Math.min(RESERVE, Math.floor(context / 4), wanted));
  if (mostTokens(all(dropped)) + reserve <= context) return { messages: all(dropped), dropped };

  const count = async (without) => (await tokensOf(all(without), key, settings)).length;
  const used = await count(dropped);
  const fits = context - 1;
  if (used + reserve <= context || (policy === "refuse" && used <= fits)) return { messages: all(dropped), dropped };
  const turns = turnsBefore(conversation, questionId);
  const shortest = dropped === turns ? used : await count(turns);
  if (shortest > fits) throw new Fault("tooLong", { counts: { tokens: shortest, fits } });
  if (policy === "refuse") throw new Fault("full", { counts: { tokens: used, fits } });
  const target = context - (shortest + 2 * reserve <= context ? 2 : 1) * reserve;
  let most = turns;
  while (dropped < most) {
    const middle = Math.floor((dropped + most) / 2);
    if ((await count(middle)) <= target) most = middle;
    else dropped = middle + 1;
  }
  return { messages: all(dropped), dropped };
}

function turnsBefore(conversation, questionId) {
  return messagesTo({ ...conversation, system: "" }, questionId, 0).filter(({ role }) => role === "user").length - 1;
}

/** Tokens of the context that the shown conversation takes: as counted, or as counted so far while an answer is written. */
export function tokensUsed(conversation) {
  const counted = shownPath(conversation).findLast(({ turn }) => turn.usage || turn.live?.prompt);
  if (!counted) return null;
  const { usage, live } = counted.turn;
  return live?.prompt ? live.prompt + live.pieces : usage.prompt_tokens + usage.completion_tokens;
}

/** Counts the draft, once it has rested for a moment. */
export class DraftCounter {
  #timer = 0;
  #asked = 0;

  /** `onCount(tokens)`: of the text and files, or null where the server cannot say. */
  constructor(onCount) {
    this.onCount = onCount;
  }

  count(text, files, key) {
    clearTimeout(this.#timer);
    const asked = ++this.#asked;
    const content = contentOf({ text: text.trim(), files });
    if (!content) {
      this.onCount(0);
      return;
    }
    this.#timer = setTimeout(async () => {
      const tokens = await tokensOf(content, key).catch(() => null);
      if (asked === this.#asked) this.onCount(tokens?.length ?? null);
    }, 250);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#asked += 1;
  }
}

