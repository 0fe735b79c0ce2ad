// How much of the model's context the conversation fills.

import { tokensUsed } from "../conversation/tree.js";
import { number, say } from "../language/words.js";
import { html } from "./html.js";

export function ContextGauge({ chat }) {
  const size = chat.info.context_length;
  const used = tokensUsed(chat.open) ?? 0;
  const share = Math.min(1, used / size);
  const label = say("context", number(used), number(size));
  return html`<span class=${`gauge ${share > 0.9 ? "nearly-full" : ""}`} role="meter" aria-label=${label} aria-valuenow=${used} aria-valuemin="0" aria-valuemax=${size} title=${share > 0.9 ? `${say("contextFull")}. ${label}` : label}>
    <svg viewBox="0 0 40 4" width="40" height="4" aria-hidden="true">
      <rect class="all" width="40" height="4" rx="2" />
      <rect class="used" width=${used ? Math.max(2, 40 * share) : 0} height="4" rx="2" />
    </svg>
    ${number(used)} / ${number(size)}
  </span>`;
}
