// Messages begun but not sent, one a conversation; texts are kept for the tab, so that a reload loses nothing.

const NAME = "bmqwen.drafts";
const NEW = "new";

/** A conversation that is not kept yet has no lasting id. */
const nameOf = (conversation, kept) => (kept.has(conversation.id) ? conversation.id : NEW);

function readAll() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(NAME) ?? "[]"));
  } catch {
    return new Map();
  }
}

class Drafts {
  #texts = readAll();
  #files = new Map();

  get(conversation, kept) {
    return this.#texts.get(nameOf(conversation, kept)) ?? "";
  }

  filesOf(conversation, kept) {
    return this.#files.get(nameOf(conversation, kept)) ?? [];
  }

  setFiles(conversation, kept, files) {
    this.#files.set(nameOf(conversation, kept), files);
  }

  set(conversation, kept, text) {
    if (text) this.#texts.set(nameOf(conversation, kept), text);
    else this.#texts.delete(nameOf(conversation, kept));
    try {
      sessionStorage.setItem(NAME, JSON.stringify([...this.#texts]));
    } catch {
      // No room or no storage: the draft lives as long as the page.
      return;
    }
  }
}

export const drafts = new Drafts();
