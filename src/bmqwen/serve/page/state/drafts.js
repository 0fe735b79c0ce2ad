// What is begun but not sent: a message for each conversation, and the settings of a new one. It is kept for the tab, files
// excepted, so that a reload loses nothing.

const TEXTS = "bmqwen.drafts";
const BEGUN = "bmqwen.begun";
const NEW = "new";

/** A conversation that is not kept yet has no lasting id. */
const nameOf = (conversation, kept) => (kept.has(conversation.id) ? conversation.id : NEW);

function read(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name));
  } catch {
    return null;
  }
}

/** Without room or storage, a draft lives as long as the page. */
function write(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
  } catch {
    return;
  }
}

class Drafts {
  #texts = new Map(read(TEXTS) ?? []);
  #files = new Map();
  #begun = read(BEGUN);

  get(conversation, kept) {
    return this.#texts.get(nameOf(conversation, kept)) ?? "";
  }

  set(conversation, kept, text) {
    if (text) this.#texts.set(nameOf(conversation, kept), text);
    else this.#texts.delete(nameOf(conversation, kept));
    write(TEXTS, [...this.#texts]);
  }

  filesOf(conversation, kept) {
    return this.#files.get(nameOf(conversation, kept)) ?? [];
  }

  setFiles(conversation, kept, files) {
    this.#files.set(nameOf(conversation, kept), files);
  }

  /** {system, settings} that a conversation was given before its first question, or null. */
  get begun() {
    return this.#begun;
  }

  set begun(given) {
    this.#begun = given;
    write(BEGUN, given);
  }
}

export const drafts = new Drafts();
