// Files that go with a question, as text. What is no text is refused.

import { say, size } from "../language/words.js";

const LARGEST_NAME = 200;
// Control characters that no text has.
const BINARY = /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/u;
const ENCODINGS = ["utf-8", "gb18030"];

/** A file that cannot be read; the message is a sentence for the reader. */
export class FileRefused extends Error {}

/** As a turn keeps a file: {name, size, text}. */
export function fileOf(name, text) {
  return { name: name.replace(/[\u0000-\u001f]/gu, " ").slice(0, LARGEST_NAME), size: new TextEncoder().encode(text).length, text };
}

/** Read a File, up to so many bytes. Raises FileRefused. */
export async function readAttachment(file, largest) {
  if (file.size > largest) throw new FileRefused(say("fileLarge", file.name, size(file.size), size(largest)));
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new FileRefused(say("fileUnreadable", file.name));
  }
  const text = textOf(bytes);
  if (text === null) throw new FileRefused(say("fileBinary", file.name));
  if (!text.trim()) throw new FileRefused(say("fileEmpty", file.name));
  return fileOf(file.name, text);
}

/** The text of bytes in UTF-8, UTF-16 with its mark, or GB 18030; null for what is none. */
function textOf(bytes) {
  const marked = { "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.subarray(0, 2).join()];
  for (const encoding of marked ? [marked] : ENCODINGS) {
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll("\r\n", "\n");
      if (!BINARY.test(text)) return text;
    } catch {
      // Not in this one.
    }
  }
  return null;
}
