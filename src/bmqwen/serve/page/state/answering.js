// One answer under way: asks, lets the turn grow, and ends it as done, stopped or failed.

import { messagesTo } from "../conversation/tree.js";
import { Fault } from "../server/fault.js";
import { streamAnswer } from "../server/client.js";

const SAVE_EVERY_MS = 400;

export class Answering {
  #controller = new AbortController();

  /** `onGrowth()` after each piece of text, `onSave()` a few times a second and at the end. */
  constructor(conversation, turn, { model, settings, key, onGrowth, onSave }) {
    this.conversation = conversation;
    this.turn = turn;
    this.model = model;
    this.settings = settings;
    this.key = key;
    this.onGrowth = onGrowth;
    this.onSave = onSave;
  }

  /** Closes the connection: the server stops computing. */
  stop() {
    this.#controller.abort();
  }

  /** Returns when the answer has ended, in whichever way; the turn says how. */
  async run() {
    const { conversation, turn } = this;
    const body = { model: this.model, messages: messagesTo(conversation, turn.parent), ...this.settings };
    let saved = performance.now();
    try {
      for await (const part of streamAnswer(body, this.key, this.#controller.signal)) {
        this.#take(part);
        this.onGrowth();
        if (performance.now() - saved > SAVE_EVERY_MS) {
          conversation.updated = Date.now();
          saved = performance.now();
          this.onSave();
        }
      }
      turn.state = "done";
    } catch (error) {
      if (this.#controller.signal.aborted) turn.state = "stopped";
      else this.#fail(error instanceof Fault ? error : new Fault("failed", String(error)));
    }
    delete turn.owner;
    this.onSave();
    this.onGrowth();
  }

  #take(part) {
    const { turn } = this;
    if (part.text) turn.text += part.text;
    if (part.finish) turn.finish = part.finish;
    if (part.usage) {
      turn.usage = part.usage;
      turn.timings = part.timings ?? undefined;
    }
  }

  #fail(fault) {
    this.turn.state = "failed";
    this.turn.fault = fault.record;
  }
}
