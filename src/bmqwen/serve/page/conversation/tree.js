// A conversation: a tree of turns. Editing or regenerating adds a sibling; `chosen` says which child of a turn is shown.

export const ROOT = "root";

/** 128 random bits in hex. (crypto.randomUUID is missing on plain http pages.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A conversation without turns. `settings` holds only what differs from the server's defaults. */
export function newConversation(now = Date.now()) {
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    system: "",
    settings: {},
    turns: new Map(),
    chosen: new Map(),
  };
}

/** Append a turn below `parent` (a turn's id or ROOT) and show it. Returns the turn. */
export function addTurn(conversation, parent, role, fields = {}, now = Date.now()) {
  if (parent !== ROOT && !conversation.turns.has(parent)) throw new Error(`no turn ${parent}`);
  const turn = { id: newId(), parent, role, text: "", created: now, state: "done", ...fields };
  conversation.turns.set(turn.id, turn);
  conversation.chosen.set(parent, turn.id);
  conversation.updated = now;
  return turn;
}

/** Children of each turn, oldest first. */
function childrenOf(conversation) {
  const children = new Map();
  for (const turn of conversation.turns.values()) {
    if (!children.has(turn.parent)) children.set(turn.parent, []);
    children.get(turn.parent).push(turn);
  }
  return children;
}

/** The turns shown, first to last, each with its place among its siblings: [{turn, siblings: [id], index}]. */
export function shownPath(conversation) {
  const children = childrenOf(conversation);
  const path = [];
  for (let parent = ROOT; children.has(parent); ) {
    const siblings = children.get(parent);
    const chosen = siblings.findIndex((turn) => turn.id === conversation.chosen.get(parent));
    const index = chosen < 0 ? siblings.length - 1 : chosen;
    path.push({ turn: siblings[index], siblings: siblings.map((turn) => turn.id), index });
    parent = siblings[index].id;
  }
  return path;
}

/** The last turn shown, or ROOT. */
export function lastShown(conversation) {
  return shownPath(conversation).at(-1)?.turn.id ?? ROOT;
}

/** Show this turn in place of its siblings. */
export function choose(conversation, id) {
  conversation.chosen.set(conversation.turns.get(id).parent, id);
}

/** From the first turn down to `id`, as the API takes them; the system prompt first. Answers without text are left out. */
export function messagesTo(conversation, id) {
  const messages = [];
  for (let at = id; at !== ROOT; at = conversation.turns.get(at).parent) {
    const { role, text } = conversation.turns.get(at);
    if (role === "user" || text) messages.unshift({ role, content: text });
  }
  if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system });
  return messages;
}

/** Tokens of the context that the shown path fills, as the server counted them last; null before the first answer. */
export function tokensUsed(conversation) {
  const counted = shownPath(conversation).findLast(({ turn }) => turn.usage);
  return counted ? counted.turn.usage.prompt_tokens + counted.turn.usage.completion_tokens : null;
}

/** What a list shows: the title given, else the first words of the first question; "" for a new one. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = shownPath(conversation)[0]?.turn.text ?? "";
  const words = [...plainOf(first)];
  return words.length > 60 ? words.slice(0, 59).join("") + "…" : words.join("");
}

/** The words of a text on one line, without the marks of Markdown: a fence says nothing. */
function plainOf(text) {
  const line = text.replace(/^[ \t]*(?:`{3,}|~{3,}).*$|^[ \t]*(?:#{1,6}|>)[ \t]+|\*\*|`/gmu, " ").replace(/\s+/gu, " ").trim();
  return line || text.trim().replace(/\s+/gu, " ");
}

/** Does the title or any turn, on whichever branch, hold all of these words? */
export function matches(conversation, query) {
  const wanted = query.toLocaleLowerCase().split(/\s+/u).filter(Boolean);
  if (!wanted.length) return true;
  const texts = [conversation.title, ...Array.from(conversation.turns.values(), (turn) => turn.text)];
  const text = texts.join("\n").toLocaleLowerCase();
  return wanted.every((word) => text.includes(word));
}
