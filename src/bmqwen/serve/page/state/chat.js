// What the page knows and can do: the conversations, the one that is open, the answers under way, the server.

import * as tree from "../conversation/tree.js";
import { fromFile, toFile } from "../conversation/exchange.js";
import { requestSettings } from "../conversation/settings.js";
import { Library } from "../conversation/library.js";
import { keyFits, serverInfo } from "../server/client.js";
import { Fault } from "../server/fault.js";
import { Answering } from "./answering.js";
import { thisTab } from "./tab.js";
import { say } from "../language/words.js";

/** An answer that another tab writes is saved by it more often than this. */
const SIGN_OF_LIFE_MS = 6_000;
const INFO_AGAIN_MS = 3_000;

/** Dispatches "change" (something to show is new) and "notice" (detail: {text, undo}). */
export class Chat extends EventTarget {
  conversations = new Map();
  info = null;
  infoFault = null;
  keeps = true;
  keyWanted = false;
  #open = tree.newConversation();
  #running = new Map();
  #watched = new Map();
  #library = new Library();
  #preferences;

  constructor(preferences) {
    super();
    this.#preferences = preferences;
  }

  /** Read what is kept, then ask the server what it serves. */
  async start() {
    this.keeps = await this.#library.open((id) => this.#reread(id));
    for (const conversation of await this.#library.all()) this.#admit(conversation);
    this.changed();
    await this.refreshInfo();
  }

  /** The conversation shown: a kept one, or a new one that is kept with its first question. */
  get open() {
    return this.#open;
  }

  /** Newest first. */
  get sorted() {
    return [...this.conversations.values()].sort((one, other) => other.updated - one.updated);
  }

  isRunning(conversation) {
    return this.#running.has(conversation.id);
  }

  show(id) {
    const found = this.conversations.get(id);
    if (found) this.#open = found;
    else if (this.conversations.has(this.#open.id)) this.#open = tree.newConversation();
    this.changed();
  }

  /** Ask what is served until there is an answer. */
  async refreshInfo() {
    try {
      this.info = await serverInfo(this.#preferences.key);
      this.infoFault = null;
      this.keyWanted = Boolean(this.info.key_required) && !this.#preferences.key;
    } catch (error) {
      this.infoFault = error instanceof Fault ? error.record : { kind: "failed", detail: String(error) };
      this.keyWanted = this.infoFault.kind === "key";
      if (!this.keyWanted) setTimeout(() => this.refreshInfo(), INFO_AGAIN_MS);
    }
    this.changed();
  }

  /** Try a key and keep it if the server takes it. Raises a Fault when the server cannot be asked. */
  async useKey(key, forGood) {
    if (!(await keyFits(key))) return false;
    this.#preferences.setKey(key, forGood);
    this.keyWanted = false;
    await this.refreshInfo();
    return true;
  }

  /** Ask the reader for the key, or leave off asking. */
  wantKey(wanted = true) {
    this.keyWanted = wanted;
    this.changed();
  }

  ask(text) {
    const conversation = this.#open;
    const question = tree.addTurn(conversation, tree.lastShown(conversation), "user", { text });
    this.conversations.set(conversation.id, conversation);
    this.#answer(conversation, question.id);
  }

  /** Another question in the place of this one; the old one stays on its branch. */
  edit(turn, text) {
    const question = tree.addTurn(this.#open, turn.parent, "user", { text });
    this.#answer(this.#open, question.id);
  }

  /** Another answer to the same question. One that failed without a word makes room. */
  regenerate(turn) {
    if (turn.state === "failed" && !turn.text) this.#open.turns.delete(turn.id);
    this.#answer(this.#open, turn.parent);
  }

  stop() {
    this.#running.get(this.#open.id)?.stop();
  }

  showBranch(id) {
    tree.choose(this.#open, id);
    this.#save(this.#open);
    this.changed();
  }

  rename(conversation, title) {
    conversation.title = title.trim().slice(0, 200);
    this.#save(conversation);
    this.changed();
  }

  setSystem(text) {
    this.#open.system = text;
    this.#keepSettings();
  }

  /** A number, or null for the server's default. */
  setSetting(name, value) {
    if (value === null) delete this.#open.settings[name];
    else this.#open.settings[name] = value;
    this.#keepSettings();
  }

  remove(conversation) {
    this.#running.get(conversation.id)?.stop();
    this.conversations.delete(conversation.id);
    this.#attempt(this.#library.remove(conversation.id));
    if (this.#open === conversation) this.#open = tree.newConversation();
    this.changed();
    this.notice(say("deleted"), () => {
      this.conversations.set(conversation.id, conversation);
      this.#open = conversation;
      this.#save(conversation);
      this.changed();
    });
  }

  /** The text of a file with one conversation, or with all. */
  exported(conversation = null) {
    return toFile(conversation ? [conversation] : this.sorted);
  }

  /** Add the conversations of an exported file; returns how many. Raises BadFile. */
  imported(text) {
    const conversations = fromFile(text);
    for (const conversation of conversations) {
      this.conversations.set(conversation.id, conversation);
      this.#save(conversation);
    }
    this.changed();
    return conversations.length;
  }

  notice(text, undo = null) {
    this.dispatchEvent(new CustomEvent("notice", { detail: { text, undo } }));
  }

  /** The page is going: answers under way are stopped, and what they have is saved. */
  leave() {
    for (const answering of this.#running.values()) {
      answering.stop();
      this.#save(answering.conversation);
    }
  }

  #answer(conversation, questionId) {
    this.#running.get(conversation.id)?.stop();
    const turn = tree.addTurn(conversation, questionId, "assistant", {
      state: "writing",
      owner: thisTab,
      model: this.info?.model,
    });
    const answering = new Answering(conversation, turn, {
      model: this.info?.model,
      settings: requestSettings(this.info, conversation.settings),
      key: this.#preferences.key,
      onGrowth: () => this.changed(),
      onSave: () => this.#save(conversation),
    });
    this.#running.set(conversation.id, answering);
    this.#save(conversation);
    this.changed();
    answering.run().finally(() => {
      if (this.#running.get(conversation.id) === answering) this.#running.delete(conversation.id);
      if (turn.fault?.kind === "key") this.keyWanted = true;
      if (["restarted", "loading", "offline"].includes(turn.fault?.kind)) this.refreshInfo();
      this.changed();
    });
  }

  #keepSettings() {
    if (this.conversations.has(this.#open.id)) this.#save(this.#open);
    this.changed();
  }

  #save(conversation) {
    // One that was deleted while its answer ended must not come back.
    if (this.conversations.has(conversation.id)) this.#attempt(this.#library.put(conversation));
  }

  #attempt(promise) {
    promise.catch(() => this.notice(say("notSaved")));
  }

  /** Take in a conversation from the store; what nobody writes any more was stopped. */
  #admit(conversation) {
    for (const turn of conversation.turns.values()) {
      if (turn.state !== "writing") continue;
      const abandoned = turn.owner === thisTab || Date.now() - conversation.updated > SIGN_OF_LIFE_MS;
      if (abandoned) turn.state = "stopped";
      else this.#lookAgain(conversation.id);
    }
    this.conversations.set(conversation.id, conversation);
    if (this.#open.id === conversation.id) this.#open = conversation;
  }

  #lookAgain(id) {
    clearTimeout(this.#watched.get(id));
    this.#watched.set(id, setTimeout(() => this.#reread(id), SIGN_OF_LIFE_MS));
  }

  /** Another tab has changed a conversation. */
  async #reread(id) {
    if (this.#running.has(id)) return;
    const conversation = await this.#library.get(id);
    if (conversation) this.#admit(conversation);
    else this.conversations.delete(id);
    this.changed();
  }

  /** Something to show is new. */
  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
