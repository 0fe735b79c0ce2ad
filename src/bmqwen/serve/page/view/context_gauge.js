// How much of the model's context the conversation fills, and the message that is being written.

import { number, say } from "../language/words.js";
import { tokensUsed } from "../state/room.js";
import { html } from "./html.js";

const WIDTH = 40;

export function ContextGauge({ chat, draft }) {
  const size = chat.info.context_length;
  if (!size) return null;
  const used = tokensUsed(chat.open) ?? 0;
  const all = used + draft;
  const share = Math.min(1, all / size);
  const label = say("context", number(used), number(size)) + (draft ? say("contextDraft", number(draft)) : "");
  const full = share > 0.9;
  const width = (tokens) => (tokens ? Math.max(2, Math.min(WIDTH, (WIDTH * tokens) / size)) : 0);
  return html`<span class=${`gauge ${full ? "nearly-full" : ""}`} role="meter" aria-label=${label} aria-valuenow=${Math.min(all, size)} aria-valuemin="0" aria-valuemax=${size} title=${full ? `${say("contextFull")} ${label}` : label}>
    <svg viewBox="0 0 ${WIDTH} 4" width=${WIDTH} height="4" aria-hidden="true">
      <rect class="all" width=${WIDTH} height="4" rx="2" />
      <rect class="draft" width=${width(all)} height="4" rx="2" />
      <rect class="used" width=${width(used)} height="4" rx="2" />
    </svg>
    ${number(all)} / ${number(size)}
  </span>`;
}
