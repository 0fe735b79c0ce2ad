// "2/3" with arrows: the versions of a question or answer.

import { say } from "../language/words.js";
import { html } from "./html.js";
import { Icon } from "./icon.js";

export function Branches({ chat, place: { siblings, index } }) {
  if (siblings.length < 2) return null;
  const step = (label, to, icon) =>
    html`<button type="button" class="small-button" aria-label=${label} title=${label} disabled=${!(to in siblings)} onClick=${() => chat.showBranch(siblings[to])}>
      <${Icon} name=${icon} />
    </button>`;
  return html`<span class="branches">
    ${step(say("previous"), index - 1, "left")}
    <span aria-label=${say("version", index + 1, siblings.length)}>${index + 1}/${siblings.length}</span>
    ${step(say("next"), index + 1, "right")}
  </span>`;
}
