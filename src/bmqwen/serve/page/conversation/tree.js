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
  const turn = { id: newId(), parent, role, text: "", created: now, changed: now, state: "done", ...fields };
  conversation.turns.set(turn.id, turn);
  conversation.chosen.set(parent, turn.id);
  conversation.updated = now;
  return turn;
}

/** Take from a turn what only an answer under way has; what of its thoughts was held back is added. Returns the turn. */
export function settle(turn) {
  if (turn.held) turn.thoughts += turn.held;
  for (const name of ["owner", "live", "answerId", "seen", "held"]) delete turn[name];
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

/** Show a turn, whichever branches it lies on. */
export function reveal(conversation, id) {
  for (let at = id; at !== ROOT && conversation.turns.has(at); at = conversation.turns.get(at).parent) choose(conversation, at);
}

/** What a question sends: its files as named blocks, then its text. */
export function contentOf({ text, files = [] }) {
  const blocks = files.map(({ name, text: content }) => {
    const longest = Math.max(2, ...Array.from(content.matchAll(/`{3,}/gu), ([run]) => run.length));
    const fence = "`".repeat(longest + 1);
    const kind = /\.(?!pdf$)(\w{1,10})$/iu.exec(name)?.[1] ?? "";
    return `File \`${name.replaceAll("`", "'")}\`:\n${fence}${kind}\n${content.replace(/\n$/u, "")}\n${fence}`;
  });
  return [...blocks, text].filter(Boolean).join("\n\n");
}

/**
 * From the first turn down to `id`, as the API takes them, without the `dropped` oldest questions and their answers; the
 * system prompt first. Answers without text are left out, and thoughts: a model does not read its old ones.
 */
export function messagesTo(conversation, id, dropped = 0) {
  const messages = [];
  for (let at = id; at !== ROOT; at = conversation.turns.get(at).parent) {
    const turn = conversation.turns.get(at);
    if (turn.role === "user" || turn.text) messages.unshift({ role: turn.role, content: contentOf(turn) });
  }
  const questions = messages.flatMap(({ role }, index) => (role === "user" ? [index] : []));
  messages.splice(0, questions[dropped] ?? 0);
  if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system });
  return messages;
}

/** How many of the oldest questions the last answer above `id` did without. */
export function leftOut(conversation, id) {
  for (let at = id; at !== ROOT; at = conversation.turns.get(at).parent) {
    const { dropped } = conversation.turns.get(at);
    if (dropped !== undefined) return dropped;
  }
  return 0;
}

/** Is the answer shown last under way, in this tab or another? */
export function writingTurn(conversation) {
  const last = conversation.turns.get(lastShown(conversation));
  return last?.state === "writing" ? last : null;
}

/** What a list shows: the title given, else the first words of the first question; "" for a new one. */
export function titleOf(conversation) {
  return conversation.title || firstWords(conversation);
}

function firstWords(conversation) {
  const first = shownPath(conversation)[0]?.turn;
  const words = [...plainOf(first?.text || first?.files?.[0]?.name || "")];
  return words.length > 60 ? words.slice(0, 59).join("") + "…" : words.join("");
}

/** What a list needs of a conversation: its summary. `title` is the one given, or "". */
export function summaryOf(conversation) {
  const { id, title, created, updated } = conversation;
  return { id, title, words: firstWords(conversation), created, updated };
}

/** The words of a text on one line, without the marks of Markdown: a fence says nothing. */
function plainOf(text) {
  const start = text.slice(0, 2_000);
  const code = /^[ \t]*(`{3,}|~{3,}).*\n[\s\S]*?(?:^[ \t]*\1.*$|$(?![\s\S]))/gmu;
  const marks = /^[ \t]*(?:`{3,}|~{3,}).*$|^[ \t]*(?:#{1,6}|>)[ \t]+|\*\*|`/gmu;
  const words = start.replace(code, "").trim() ? start.replace(code, "") : start;
  const line = words.replace(marks, "").replace(/\s+/gu, " ").trim();
  return line || start.trim().replace(/\s+/gu, " ");
}

const AROUND = 40;

/**
 * Where a conversation, on whichever branch, holds all of these words: {turn, before, match, after} of the first of them,
 * `turn` null in the title; null if it does not.
 */
export function findIn(conversation, query) {
  const words = query.toLocaleLowerCase().split(/\s+/u).filter(Boolean);
  if (!words.length) return null;
  const texts = [{ turn: null, text: titleOf(conversation) }];
  for (const turn of conversation.turns.values()) {
    texts.push({ turn: turn.id, text: turn.text });
    for (const file of turn.files ?? []) texts.push({ turn: turn.id, text: `${file.name}\n${file.text}` });
  }
  for (const entry of texts) entry.lower = entry.text.toLocaleLowerCase();
  if (!words.every((word) => texts.some(({ lower }) => lower.includes(word)))) return null;
  // The text itself says more than the title, which is made of it.
  const { turn, text, lower } = texts.slice(1).concat(texts[0]).find((entry) => entry.lower.includes(words[0]));
  const at = lower.indexOf(words[0]);
  const shown = (part) => part.replace(/\s+/gu, " ");
  return {
    turn,
    before: (at > AROUND ? "…" : "") + shown(text.slice(Math.max(0, at - AROUND), at)),
    match: text.slice(at, at + words[0].length),
    after: shown(text.slice(at + words[0].length, at + words[0].length + AROUND)),
  };
}
