// One answer under way: asks, lets the turn grow, and ends it as done, stopped or failed.

import { messagesTo, newId, settle } from "../conversation/tree.js";
import { Fault } from "../server/fault.js";
import { stopAnswer, streamAnswer, tokensOf } from "../server/client.js";
import { thinks } from "../conversation/settings.js";
import { fitting } from "./room.js";

const SAVE_EVERY_MS = 400;
const CHAT = "/v1/chat/completions";
const CONTINUE = "/v1/completions";
const THOUGHTS_END = "</think>";

export class Answering {
  #controller = new AbortController();
  #stopped = false;

  /** `settings` of the request, `policy` for a full context; `onGrowth()` after each event, `onSave()` a few times a second. */
  constructor(conversation, turn, { info, settings, policy, key, onGrowth, onSave }) {
    Object.assign(this, { conversation, turn, info, settings, policy, key, onGrowth, onSave });
  }

  /** The server stops computing, and every tab shows what there is. */
  stop() {
    this.#stopped = true;
    this.#controller.abort();
    if (this.turn.answerId) stopAnswer(this.turn.answerId, this.key).catch(() => {});
  }

  /** The page goes: the answer goes on at the server for a while, and is read on after a reload. */
  leave() {
    this.#controller.abort();
  }

  /** Ask the question above the turn. Returns when the answer has ended, in whichever way; the turn says how. */
  ask() {
    return this.#run(async () => {
      const { conversation, turn } = this;
      const { messages, dropped } = await fitting(conversation, turn.parent, this);
      turn.dropped = dropped;
      this.#countPrompt(messages);
      return { path: CHAT, body: { ...this.#common, messages } };
    });
  }

  /** Go on with the turn's text where it ended, or with its thoughts while there is no text. */
  continue() {
    return this.#run(async () => {
      const { conversation, turn } = this;
      delete turn.held;
      const messages = messagesTo(conversation, turn.parent, turn.dropped ?? 0);
      messages.push({ role: "assistant", content: turn.text, reasoning_content: turn.thoughts || undefined });
      const prompt = await tokensOf(messages, this.key, this.settings, true);
      // What comes is thoughts until their end; what may be the beginning of that is held back.
      if (turn.thoughts && !turn.text && thinks(this.info, this.settings)) turn.held = "";
      turn.live.prompt = prompt.length;
      const longest = this.info.context_length - prompt.length;
      if (longest < 1) throw new Fault("full", { counts: { tokens: prompt.length, fits: this.info.context_length - 1 } });
      // Those are of a chat.
      const { enable_thinking: _thinking, thinking_budget: _budget, ...common } = this.#common;
      return { path: CONTINUE, body: { ...common, max_tokens: this.settings.max_tokens ?? longest, prompt } };
    });
  }

  /** Read on an answer that was asked for before the page was loaded again. */
  readOn() {
    return this.#run(async () => ({}));
  }

  get #common() {
    return { model: this.info?.model, ...this.settings };
  }

  async #run(prepare) {
    const { turn, key } = this;
    const signal = this.#controller.signal;
    turn.live ??= { asked: Date.now(), pieces: 0 };
    let saved = performance.now();
    try {
      const { path, body } = await prepare();
      if (body) Object.assign(turn, { answerId: newId(), seen: 0 });
      signal.throwIfAborted();
      this.onSave();
      for await (const part of streamAnswer({ path, body, answerId: turn.answerId, seen: turn.seen, key, signal })) {
        this.#take(part);
        this.onGrowth();
        if (performance.now() - saved > SAVE_EVERY_MS) {
          saved = performance.now();
          this.#save();
        }
      }
      turn.state = "done";
    } catch (error) {
      if (signal.aborted && !this.#stopped) return;
      if (signal.aborted || error.kind === "stopped") await this.#endStopped();
      else this.#fail(error instanceof Fault ? error : new Fault("failed", { detail: String(error) }));
    }
    settle(turn);
    this.#save();
    this.onGrowth();
  }

  #save() {
    this.turn.changed = this.conversation.updated = Date.now();
    this.onSave();
  }

  #take({ text, thought, call, finish, usage, timings, progress, seen }) {
    const { turn } = this;
    const { live } = turn;
    if (seen) turn.seen = seen;
    if (progress) live.progress = progress;
    if (text || thought || call) {
      live.first ??= Date.now();
      live.last = Date.now();
      live.pieces += 1;
      delete live.progress;
    }
    if (thought) turn.thoughts = (turn.thoughts ?? "") + thought;
    if (text) this.#takeText(text);
    if (call) this.#takeCall(call);
    if (finish) turn.finish = finish;
    if (usage) {
      turn.usage = usage;
      turn.timings = timings ?? undefined;
    }
  }

  #takeText(given) {
    const { turn } = this;
    const { live } = turn;
    let text = given;
    if (turn.held !== undefined) {
      const parts = endOfThoughts(turn.held + text);
      turn.thoughts += parts.thoughts;
      turn.held = parts.held;
      if (parts.held !== undefined) return;
      turn.thoughts = turn.thoughts.trimEnd();
      text = parts.text;
    }
    if (turn.thoughts && !turn.text) text = text.trimStart();
    if (!text) return;
    if (turn.thoughts && turn.thinkingMs === undefined) turn.thinkingMs = live.last - live.first;
    turn.text += text;
  }

  #takeCall({ index = 0, id, function: made }) {
    const calls = (this.turn.calls ??= []);
    const call = (calls[index] ??= { id: "", name: "", arguments: "" });
    if (id) call.id = id;
    if (made?.name) call.name = made.name;
    if (made?.arguments) call.arguments += made.arguments;
  }

  /** For the gauge while the answer is written, and for the numbers under it if it is stopped. */
  #countPrompt(messages) {
    const { live } = this.turn;
    tokensOf(messages, this.key, this.settings).then(
      ({ length }) => {
        live.prompt = length;
        this.onGrowth();
      },
      () => {},
    );
  }

  async #endStopped() {
    const { turn } = this;
    const { asked, first, last, pieces, prompt } = turn.live;
    turn.state = "stopped";
    delete turn.finish;
    if (!prompt || !first) return;
    const seconds = (last - first) / 1000;
    turn.usage = { prompt_tokens: prompt, completion_tokens: pieces };
    turn.timings = { first_token_s: (first - asked) / 1000, tokens_per_s: seconds > 0 ? (pieces - 1) / seconds : 0 };
  }

  #fail(fault) {
    this.turn.state = "failed";
    this.turn.fault = fault.record;
  }
}

/** Thoughts and, behind their end, text; without an end, what may be its beginning, as `held`. */
function endOfThoughts(said) {
  const at = said.indexOf(THOUGHTS_END);
  if (at >= 0) return { thoughts: said.slice(0, at), text: said.slice(at + THOUGHTS_END.length) };
  let kept = Math.min(said.length, THOUGHTS_END.length - 1);
  while (!THOUGHTS_END.startsWith(said.slice(said.length - kept))) kept -= 1;
  return { thoughts: said.slice(0, said.length - kept), held: said.slice(said.length - kept) };
}
