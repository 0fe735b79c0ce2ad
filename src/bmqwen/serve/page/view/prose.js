// A text in blocks of HTML, its formulas set.

import { markdownLoaded } from "../text/markdown.js";
import { typeset } from "../text/math.js";
import { spoken } from "../language/words.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";

// While a text grows, reading it again takes at most this share of the time.
const BUSY_SHARE = 0.25;

/** `read(text)`: the HTML of its blocks. */
export function Prose({ text, read, growing = false }) {
  const blocks = useBlocks(text, read, growing);
  return blocks.map((block, index) => html`<${Block} key=${index} block=${block} />`);
}

/** The blocks of a text; of a long one that grows, at most a moment old. */
function useBlocks(text, read, growing) {
  const last = useRef({ key: null, blocks: [], at: 0, took: 0 });
  const [, again] = useState(0);
  const key = `${spoken()}${markdownLoaded()}\0${text}`;
  const now = performance.now();
  const rest = growing ? last.current.took / BUSY_SHARE - (now - last.current.at) : 0;
  const stale = key !== last.current.key;
  if (stale && rest <= 0) {
    const blocks = read(text);
    last.current = { key, blocks, at: performance.now(), took: performance.now() - now };
  }
  useEffect(() => {
    if (!stale || rest <= 0) return undefined;
    const timer = setTimeout(() => again((count) => count + 1), rest);
    return () => clearTimeout(timer);
  });
  return last.current.blocks;
}

function Block({ block }) {
  const place = useRef(null);
  useLayoutEffect(() => {
    typeset(place.current);
  }, [block]);
  return html`<div ref=${place} class="block" dangerouslySetInnerHTML=${{ __html: block }}></div>`;
}
