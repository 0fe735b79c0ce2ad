// Conversations as a JSON file, out and in, and as Markdown, out. A file read is a stranger's: every field is checked and copied, none kept whole.

import { say } from "../language/words.js";
import { fileOf } from "./attachment.js";
import { ROOT, contentOf, newId, settle, shownPath, titleOf } from "./tree.js";

export const FORMAT = "bmqwen-conversations";
export const VERSION = 1;

/** A file that is no export of this page. `reason` is a key of the page's words. */
export class BadFile extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** The text of a file with these conversations. */
export function toFile(conversations, now = new Date()) {
  const plain = conversations.map((conversation) => ({
    ...conversation,
    turns: [...conversation.turns.values()].map((turn) => settle({ ...turn })),
    chosen: Object.fromEntries(conversation.chosen),
  }));
  const file = { format: FORMAT, version: VERSION, exported: now.toISOString(), conversations: plain };
  return JSON.stringify(file, null, 1) + "\n";
}

/** The shown branch of a conversation, for people and other programs. */
export function toMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.system.trim()) parts.push(`> ${conversation.system.trim().replaceAll("\n", "\n> ")}`);
  shownPath(conversation).forEach(({ turn }, index) => {
    const heading = say(turn.role === "user" ? "question" : "answer", Math.floor(index / 2) + 1);
    parts.push(`## ${heading}`, contentOf(turn).trim());
  });
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}

/** The conversations of a file, all with new ids. Raises BadFile. */
export function fromFile(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new BadFile("importNoJson");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new BadFile("importForeign");
  if (file.version !== VERSION) throw new BadFile("importNewer");
  return file.conversations.map(conversationFrom);
}

function conversationFrom(raw) {
  const created = timeOf(raw?.created);
  const conversation = {
    id: newId(),
    title: textOf(raw?.title ?? ""),
    created,
    updated: timeOf(raw?.updated ?? created),
    system: textOf(raw?.system ?? ""),
    settings: settingsFrom(raw?.settings),
    turns: new Map(),
    chosen: new Map(),
  };
  if (!Array.isArray(raw?.turns)) throw new BadFile("importBroken");
  const ids = new Map([[ROOT, ROOT]]);
  // A parent comes before its children, so that no cycle can be written down.
  for (const turn of raw.turns) {
    const parent = ids.get(turn?.parent);
    const above = conversation.turns.get(parent)?.role ?? "assistant";
    if (!parent || !["user", "assistant"].includes(turn.role) || turn.role === above) {
      throw new BadFile("importBroken");
    }
    const id = newId();
    ids.set(textOf(turn.id), id);
    conversation.turns.set(id, turnFrom(turn, id, parent));
  }
  for (const [parent, child] of Object.entries(raw.chosen ?? {})) {
    const to = ids.get(child);
    if (conversation.turns.get(to)?.parent === ids.get(parent)) conversation.chosen.set(ids.get(parent), to);
  }
  return conversation;
}

function turnFrom(raw, id, parent) {
  const turn = {
    id,
    parent,
    role: raw.role,
    text: textOf(raw.text),
    created: timeOf(raw.created),
    changed: timeOf(raw.created),
    state: ["done", "stopped", "failed"].includes(raw.state) ? raw.state : "stopped",
  };
  for (const key of ["model", "finish", "thoughts"]) if (typeof raw[key] === "string") turn[key] = raw[key];
  for (const key of ["dropped", "thinkingMs"]) if (raw[key] >= 0 && Number.isFinite(raw[key])) turn[key] = raw[key];
  if (raw.edited === true) turn.edited = true;
  if (Array.isArray(raw.files)) turn.files = raw.files.map(({ name, text } = {}) => fileOf(textOf(name), textOf(text)));
  if (Array.isArray(raw.calls)) turn.calls = raw.calls.map(callFrom);
  const usage = numbersFrom(raw.usage, ["prompt_tokens", "completion_tokens"]);
  if (usage && Object.keys(usage).length === 2) turn.usage = usage;
  const timings = numbersFrom(raw.timings, ["first_token_s", "tokens_per_s", "cached_tokens", "queue_s"]);
  if (timings) turn.timings = timings;
  return turn;
}

function callFrom(raw) {
  return { id: textOf(raw?.id ?? ""), name: textOf(raw?.name ?? ""), arguments: textOf(raw?.arguments ?? "") };
}

/** All numbers and switches: which of them are settings, the server says when they are used. */
function settingsFrom(raw) {
  const known = Object.entries(raw ?? {}).filter(([, value]) => Number.isFinite(value) || typeof value === "boolean");
  return Object.fromEntries(known);
}

function numbersFrom(raw, names) {
  if (typeof raw !== "object" || raw === null) return null;
  return Object.fromEntries(names.filter((name) => Number.isFinite(raw[name])).map((name) => [name, raw[name]]));
}

function textOf(raw) {
  if (typeof raw !== "string") throw new BadFile("importBroken");
  return raw;
}

function timeOf(raw) {
  return Number.isFinite(raw) ? raw : Date.now();
}
