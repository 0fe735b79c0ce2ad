// What the page knows and can do: the conversations, the one that is open, the answers under way, the server.

import * as tree from "../conversation/tree.js";
import { fromFile, toFile, toMarkdown } from "../conversation/exchange.js";
import { requestSettings } from "../conversation/settings.js";
import { Library } from "../conversation/library.js";
import { keyFits, serverInfo, stopAnswer } from "../server/client.js";
import { Fault } from "../server/fault.js";
import { Answering } from "./answering.js";
import { drafts } from "./drafts.js";
import { thisTab } from "./tab.js";
import { say } from "../language/words.js";

/** An answer that another tab writes is saved by it more often than this. */
const SIGN_OF_LIFE_MS = 6_000;
const INFO_AGAIN_MS = 3_000;

/** Dispatches "change" (something to show is new) and "notice" (detail: {text, undo}). */
export class Chat extends EventTarget {
  /** {id, title, words, created, updated} of the kept conversations. */
  summaries = new Map();
  /** Grows with each change of the list. */
  listVersion = 0;
  info = null;
  infoFault = null;
  keeps = true;
  keyWanted = false;
  /** What a search led to and the page has still to show: {turn, match}. */
  found = null;
  #open;
  #running = new Map();
  #removedTurns = new Set();
  #watched = new Map();
  #library = new Library();
  #preferences;

  constructor(preferences) {
    super();
    this.#preferences = preferences;
    this.#open = this.#fresh(drafts.begun);
  }

  /** Read what is kept, then ask the server what it serves. */
  async start() {
    this.keeps = await this.#library.open((id) => this.#reread(id));
    for (const summary of await this.#library.list()) this.summaries.set(summary.id, summary);
    this.#listChanged();
    await this.show(location.hash.slice(1) || null);
    await this.refreshInfo();
  }

  get preferences() {
    return this.#preferences;
  }

  /** The conversation shown: a kept one, or a new one that is kept with its first question. */
  get open() {
    return this.#open;
  }

  /** Newest first. */
  get sorted() {
    return [...this.summaries.values()].sort((one, other) => other.updated - one.updated);
  }

  /** Is an answer of this conversation written by this tab, or by another as far as the open one shows? */
  isRunning({ id }) {
    return this.#running.has(id) || (id === this.#open.id && tree.writingTurn(this.#open) !== null);
  }

  /** Open a conversation, at a {turn, match} of it; null or an unknown id for a new one. */
  async show(id, found = null) {
    if (this.summaries.has(id)) {
      this.#open = (await this.#whole(id)) ?? this.#open;
      this.#lookAfter(this.#open);
    } else if (this.summaries.has(this.#open.id)) this.#open = this.#fresh();
    this.found = found?.turn ? found : null;
    if (this.found) tree.reveal(this.#open, found.turn);
    this.changed();
  }

  /** Conversations that hold all words of a query, as they are found: {summary, turn, before, match, after}. */
  async *search(query, signal) {
    for (const summary of this.sorted) {
      const conversation = this.#running.get(summary.id)?.conversation ?? (await this.#whole(summary.id));
      if (signal.aborted) return;
      const place = conversation && tree.findIn(conversation, query);
      if (place) yield { summary, ...place };
    }
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

  ask(text, files = []) {
    const conversation = this.#open;
    drafts.begun = null;
    const question = tree.addTurn(conversation, tree.lastShown(conversation), "user", { text, ...(files.length && { files }) });
    this.#enlist(conversation);
    this.#answer(conversation, question.id);
  }

  /** Another question in the place of this one, with its files; or another text of an answer. The old one stays on its branch. */
  edit({ parent, role, files, model, dropped }, text) {
    const more = role === "user" ? { files } : { model, dropped, edited: true };
    const turn = tree.addTurn(this.#open, parent, role, { text, ...more });
    if (role === "user") this.#answer(this.#open, turn.id);
    else this.#save(this.#open);
    this.changed();
  }

  /** Another answer to the same question. One that failed without a word makes room. */
  regenerate(turn) {
    if (turn.state === "failed" && !turn.text) {
      this.#removedTurns.add(turn.id);
      this.#open.turns.delete(turn.id);
    }
    this.#answer(this.#open, turn.parent);
  }

  /** Let the answer go on where it was cut off. */
  continue(turn) {
    for (const name of ["finish", "fault", "usage", "timings"]) delete turn[name];
    Object.assign(turn, { state: "writing", owner: thisTab });
    this.#run(this.#open, turn, (answering) => answering.continue());
  }

  /** Stop the answer of the open conversation, also where another tab writes it. */
  stop() {
    const answering = this.#running.get(this.#open.id);
    const turn = tree.writingTurn(this.#open);
    if (answering) answering.stop();
    else if (turn?.answerId) stopAnswer(turn.answerId, this.#preferences.key).catch(() => this.#end(turn));
    else if (turn) this.#end(turn);
  }

  showBranch(id) {
    tree.choose(this.#open, id);
    this.#save(this.#open);
    this.changed();
  }

  /** "" for the first words of the first question. */
  rename(id, text) {
    const summary = this.summaries.get(id);
    if (!summary) return;
    const title = text.trim().slice(0, 200);
    const conversation = this.#inMemory(id);
    if (conversation) conversation.title = title;
    this.summaries.set(id, { ...summary, title });
    this.#attempt(this.#library.rename({ ...summary, title }));
    this.#listChanged();
  }

  setSystem(text) {
    this.#open.system = text;
    this.#keepSettings();
  }

  /** A number or a switch, or null for the server's default. */
  setSetting(name, value) {
    if (value === null) delete this.#open.settings[name];
    else this.#open.settings[name] = value;
    this.#keepSettings();
  }

  /** Take over a preset's system prompt and settings, here and for new conversations; null for the server's defaults. */
  usePreset(name) {
    this.#preferences.set("preset", name);
    const { system, settings } = this.#preferences.preset;
    Object.assign(this.#open, { system, settings: { ...settings } });
    this.#keepSettings();
  }

  /** Keep the open conversation's system prompt and settings under a name. */
  savePreset(name) {
    const { system, settings } = this.#open;
    this.#preferences.savePreset({ name, system, settings: { ...settings } });
    this.changed();
  }

  removePreset(name) {
    this.#preferences.removePreset(name);
    this.changed();
  }

  async remove(id) {
    const shown = this.#inMemory(id);
    this.#running.get(id)?.stop();
    this.summaries.delete(id);
    // Begun before anything is waited for: a page that is reloaded in the next moment must not show it again.
    const removed = this.#library.remove(id);
    this.#attempt(removed);
    if (this.#open.id === id) this.#open = this.#fresh();
    this.#listChanged();
    const conversation = shown ?? (await removed.catch(() => null));
    if (!conversation) return;
    this.notice(say("deleted"), () => {
      this.#enlist(conversation);
      this.#open = conversation;
      this.#save(conversation);
      this.changed();
    });
  }

  /** The text of a file with one conversation, or with all. */
  async exported(id = null) {
    const ids = id ? [id] : this.sorted.map((summary) => summary.id);
    const conversations = await Promise.all(ids.map((each) => this.#whole(each)));
    return toFile(conversations.filter(Boolean));
  }

  /** The shown branch of a conversation as Markdown. */
  async asMarkdown(id) {
    return toMarkdown(await this.#whole(id));
  }

  /** Add the conversations of an exported file; returns how many. Raises BadFile. */
  imported(text) {
    const conversations = fromFile(text);
    for (const conversation of conversations) {
      this.#enlist(conversation);
      this.#save(conversation);
    }
    this.changed();
    return conversations.length;
  }

  notice(text, undo = null) {
    this.dispatchEvent(new CustomEvent("notice", { detail: { text, undo } }));
  }

  /** The page is going: what answers under way have is saved. */
  leave() {
    for (const answering of this.#running.values()) {
      answering.leave();
      this.#save(answering.conversation);
    }
  }

  /** Something to show is new. */
  changed() {
    this.dispatchEvent(new Event("change"));
  }

  #fresh(begun = null) {
    const { system, settings } = begun ?? this.#preferences.preset;
    drafts.begun = begun;
    return { ...tree.newConversation(), system, settings: { ...settings } };
  }

  #inMemory(id) {
    return this.#open.id === id ? this.#open : this.#running.get(id)?.conversation;
  }

  async #whole(id) {
    return this.#inMemory(id) ?? this.#library.get(id);
  }

  #enlist(conversation) {
    this.summaries.set(conversation.id, tree.summaryOf(conversation));
    this.#listChanged();
  }

  #listChanged() {
    this.listVersion += 1;
    this.changed();
  }

  #answer(conversation, questionId) {
    const turn = tree.addTurn(conversation, questionId, "assistant", {
      state: "writing",
      owner: thisTab,
      model: this.info?.model,
    });
    this.#run(conversation, turn, (answering) => answering.ask());
  }

  #run(conversation, turn, begin) {
    this.#running.get(conversation.id)?.stop();
    const answering = new Answering(conversation, turn, {
      info: this.info,
      settings: requestSettings(this.info, conversation.settings),
      policy: this.#preferences.get("overflow"),
      key: this.#preferences.key,
      onGrowth: () => this.changed(),
      onSave: () => this.#save(conversation),
    });
    this.#running.set(conversation.id, answering);
    this.#save(conversation);
    this.#listChanged();
    begin(answering).finally(() => {
      if (this.#running.get(conversation.id) === answering) this.#running.delete(conversation.id);
      if (turn.fault?.kind === "key") this.keyWanted = true;
      if (["restarted", "loading", "stopping", "offline", "model"].includes(turn.fault?.kind)) this.refreshInfo();
      this.#listChanged();
    });
  }

  #keepSettings() {
    const { id, system, settings } = this.#open;
    if (this.summaries.has(id)) this.#save(this.#open);
    else drafts.begun = { system, settings };
    this.changed();
  }

  #save(conversation) {
    // One that was deleted while its answer ended must not come back.
    if (!this.summaries.has(conversation.id)) return;
    this.#enlist(conversation);
    this.#attempt(this.#library.put(conversation, this.#removedTurns));
  }

  #attempt(promise) {
    promise.catch(() => this.notice(say("notSaved")));
  }

  /** An answer of the open conversation that another tab writes is watched; one that nobody writes any more is read on. */
  #lookAfter(conversation) {
    const turn = tree.writingTurn(conversation);
    if (!turn || this.#running.has(conversation.id)) return;
    if (turn.owner !== thisTab && Date.now() - turn.changed < SIGN_OF_LIFE_MS) {
      clearTimeout(this.#watched.get(conversation.id));
      this.#watched.set(conversation.id, setTimeout(() => this.#reread(conversation.id), SIGN_OF_LIFE_MS));
    } else if (turn.answerId) {
      turn.owner = thisTab;
      this.#run(conversation, turn, (answering) => answering.readOn());
    } else this.#end(turn);
  }

  #end(turn) {
    turn.state = "stopped";
    tree.settle(turn);
    turn.changed = Date.now();
    this.#save(this.#open);
    this.changed();
  }

  /** Another tab has changed a conversation. */
  async #reread(id) {
    const summary = await this.#library.summary(id);
    const written = this.#running.get(id)?.conversation;
    if (written) {
      written.title = summary?.title ?? written.title;
      return;
    }
    if (summary) this.summaries.set(id, summary);
    else this.summaries.delete(id);
    if (this.#open.id === id && summary) {
      this.#open = (await this.#library.get(id)) ?? this.#open;
      this.#lookAfter(this.#open);
    }
    this.#listChanged();
  }
}
