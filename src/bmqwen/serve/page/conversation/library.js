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

function upgrade(database, transaction, before) {
  if (before < 1) database.createObjectStore(STORE, { keyPath: "id" });
  const list = database.createObjectStore(LIST, { keyPath: "id" });
  transaction.objectStore(STORE).openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (!cursor) return;
    list.put(summaryOf(cursor.value));
    cursor.continue();
  };
}

export class Library {
  #database = null;
  #channel = null;

  /** Open the store; `onChange(id)` is called when another tab has changed a conversation. False: nothing can be kept here. */
  async open(onChange) {
    try {
      const opening = indexedDB.open(NAME, 2);
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

  /** {id, title, created, updated} of all conversations. */
  async list() {
    return this.#database ? done(this.#database.transaction(LIST).objectStore(LIST).getAll()) : [];
  }

  /** One conversation, or undefined. */
  async get(id) {
    return this.#database ? done(this.#database.transaction(STORE).objectStore(STORE).get(id)) : undefined;
  }

  /** {id, title, created, updated} of one conversation, or undefined. */
  async summary(id) {
    return this.#database ? done(this.#database.transaction(LIST).objectStore(LIST).get(id)) : undefined;
  }

  /**
   * Write a conversation, with what other tabs have added to it or changed later. Raises what the browser says (its
   * storage is full, for example). `removed`: turns that this tab took out.
   */
  async put(conversation, removed = new Set()) {
    if (!this.#database) return;
    const transaction = this.#database.transaction([STORE, LIST], "readwrite");
    const store = transaction.objectStore(STORE);
    const known = await done(store.get(conversation.id));
    for (const turn of known?.turns.values() ?? []) {
      const ours = conversation.turns.get(turn.id);
      if (ours ? (turn.changed ?? 0) > (ours.changed ?? 0) : !removed.has(turn.id)) conversation.turns.set(turn.id, turn);
    }
    store.put(conversation);
    await this.#commit(transaction, transaction.objectStore(LIST).put(summaryOf(conversation)));
    this.#channel.postMessage(conversation.id);
  }

  /** Remove a conversation; returns what it was. */
  async remove(id) {
    if (!this.#database) return undefined;
    const transaction = this.#database.transaction([STORE, LIST], "readwrite");
    const store = transaction.objectStore(STORE);
    const removed = done(store.get(id));
    store.delete(id);
    await this.#commit(transaction, transaction.objectStore(LIST).delete(id));
    this.#channel.postMessage(id);
    return removed;
  }

  /** At once: a page that is reloaded in the next moment must not lose a change. */
  #commit(transaction, last) {
    const changed = done(last);
    transaction.commit();
    return Promise.all([
      changed,
      new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error);
      }),
    ]);
  }
}
