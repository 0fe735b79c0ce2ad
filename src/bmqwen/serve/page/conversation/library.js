// The conversations kept in this browser: one IndexedDB record each. Other tabs are told of every change.

const NAME = "bmqwen";
const STORE = "conversations";

/** A request of IndexedDB as a promise. */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Library {
  #database = null;
  #channel = null;

  /** Open the store; `onChange(id)` is called when another tab has changed a conversation. False: nothing can be kept here. */
  async open(onChange) {
    try {
      const opening = indexedDB.open(NAME, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
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

  /** All conversations. */
  async all() {
    return this.#database ? done(this.#store("readonly").getAll()) : [];
  }

  /** One conversation, or undefined. */
  async get(id) {
    return this.#database ? done(this.#store("readonly").get(id)) : undefined;
  }

  /** Write a conversation. Raises what the browser says (its storage is full, for example). */
  async put(conversation) {
    if (!this.#database) return;
    await this.#change((store) => store.put(conversation));
    this.#channel.postMessage(conversation.id);
  }

  async remove(id) {
    if (!this.#database) return;
    await this.#change((store) => store.delete(id));
    this.#channel.postMessage(id);
  }

  /** One change, committed at once: a page that is reloaded in the next moment must not lose it. */
  #change(act) {
    const store = this.#store("readwrite");
    const changed = done(act(store));
    store.transaction.commit();
    return changed;
  }

  #store(mode) {
    return this.#database.transaction(STORE, mode).objectStore(STORE);
  }
}
