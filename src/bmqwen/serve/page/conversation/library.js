// The conversations kept in this browser: one IndexedDB record each, and a short one for the list, so that a thousand long
// conversations cost a page nothing until they are opened. Other tabs are told of every change.

import { summaryOf } from "./tree.js";

const NAME = "bmqwen";
const STORE = "conversations";
const LIST = "summaries";

/** A request of IndexedDB as a promise. */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Version 1 had no list; the lists of version 2 do not tell whether a title was given or is the first words. */
function upgrade(database, transaction, before) {
  if (before < 1) database.createObjectStore(STORE, { keyPath: "id" });
  const list = before < 2 ? database.createObjectStore(LIST, { keyPath: "id" }) : transaction.objectStore(LIST);
  transaction.objectStore(STORE).openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (!cursor) return;
    list.put(summaryOf(cursor.value));
    cursor.continue();
  };
}

/** A conversation as a transaction finds it, or undefined. Its title is the list's, which `rename` writes. */
async function wholeIn(transaction, id) {
  const [conversation, summary] = await Promise.all([STORE, LIST].map((name) => done(transaction.objectStore(name).get(id))));
  return conversation && summary && { ...conversation, title: summary.title };
}

/** Add to a conversation the turns that another tab has added or changed later. Returns whether there were any. */
function takeFrom(known, conversation, removed) {
  const theirs = [...(known?.turns.values() ?? [])].filter((turn) => {
    const ours = conversation.turns.get(turn.id);
    return ours ? (turn.changed ?? 0) > (ours.changed ?? 0) : !removed.has(turn.id);
  });
  for (const turn of theirs) conversation.turns.set(turn.id, turn);
  return theirs.length > 0;
}

/**
 * Whatever writes issues all of its requests before it waits for any, and commits: a page that is reloaded in the next
 * moment must not lose a change.
 */
export class Library {
  #database = null;
  #channel = null;

  /** Open the store; `onChange(id)` is called when another tab has changed a conversation. False: nothing can be kept here. */
  async open(onChange) {
    try {
      const opening = indexedDB.open(NAME, 3);
      opening.onupgradeneeded = ({ oldVersion }) => upgrade(opening.result, opening.transaction, oldVersion);
      this.#database = await done(opening);
      // A later version of this page in another tab may need the store for itself.
      this.#database.onversionchange = () => this.#database.close();
    } catch {
      return false;
    }
    this.#channel = new BroadcastChannel(NAME);
    this.#channel.onmessage = (event) => onChange(event.data);
    return true;
  }

  /** The summaries of all conversations. */
  async list() {
    return this.#database ? done(this.#database.transaction(LIST).objectStore(LIST).getAll()) : [];
  }

  /** One conversation, or undefined. */
  async get(id) {
    return this.#database ? wholeIn(this.#database.transaction([STORE, LIST]), id) : undefined;
  }

  /** The summary of one conversation, or undefined. */
  async summary(id) {
    return this.#database ? done(this.#database.transaction(LIST).objectStore(LIST).get(id)) : undefined;
  }

  /**
   * Write a conversation, and write it again with what other tabs have added to it or changed later. Raises what the
   * browser says (its storage is full, for example). `removed`: turns that this tab took out.
   */
  async put(conversation, removed = new Set()) {
    if (!this.#database) return;
    const transaction = this.#database.transaction([STORE, LIST], "readwrite");
    const store = transaction.objectStore(STORE);
    const before = done(store.get(conversation.id));
    store.put(conversation);
    transaction.objectStore(LIST).put(summaryOf(conversation));
    const [known] = await Promise.all([before, this.#commit(transaction)]);
    if (takeFrom(known, conversation, removed)) await this.put(conversation, removed);
    else this.#channel.postMessage(conversation.id);
  }

  /** Write a summary with a new title, which the conversation has when it is next read. */
  async rename(summary) {
    if (!this.#database) return;
    const transaction = this.#database.transaction(LIST, "readwrite");
    transaction.objectStore(LIST).put(summary);
    await this.#commit(transaction);
    this.#channel.postMessage(summary.id);
  }

  /** Remove a conversation; returns what it was. */
  async remove(id) {
    if (!this.#database) return undefined;
    const transaction = this.#database.transaction([STORE, LIST], "readwrite");
    const removed = wholeIn(transaction, id);
    transaction.objectStore(STORE).delete(id);
    transaction.objectStore(LIST).delete(id);
    await this.#commit(transaction);
    this.#channel.postMessage(id);
    return removed;
  }

  #commit(transaction) {
    const committed = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    transaction.commit();
    return committed;
  }
}
