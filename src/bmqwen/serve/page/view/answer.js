// A turn of the model's: its text, how it ended, and what it took.

import { say } from "../language/words.js";
import { blocksOf } from "../text/markdown.js";
import { Branches } from "./branches.js";
import { CopyButton } from "./copy_button.js";
import { Failure } from "./failure.js";
import { html } from "./html.js";
import { Icon } from "./icon.js";
import { Measured } from "./measured.js";
import { Prose } from "./prose.js";

export function Answer({ chat, place, order, last }) {
  const { turn } = place;
  const writing = turn.state === "writing";
  return html`<article class=${`answer ${turn.state}`} aria-label=${say("answer", order)} aria-busy=${String(writing)}>
    <div class="prose" dir="auto">
      ${turn.text && html`<${Prose} text=${turn.text} read=${blocksOf} growing=${writing} />`}
      ${writing && !turn.text && html`<p class="waiting"><span></span><span></span><span></span></p>`}
    </div>
    ${turn.state === "failed" && html`<${Failure} fault=${turn.fault} onRetry=${() => chat.regenerate(turn)} />`}
    ${turn.state === "stopped" && html`<p class="remark">${say("stopped")}</p>`}
    ${turn.finish === "length" && html`<p class="remark">${say("lengthReached")}</p>`}
    ${!writing &&
    html`<div class=${`turn-foot ${last ? "shown" : ""}`}>
      <${Measured} turn=${turn} />
      <${Branches} ...${{ chat, place }} />
      ${turn.text && html`<${CopyButton} text=${turn.text} label=${say("copyAnswer")} />`}
      ${turn.state !== "failed" &&
      html`<button type="button" class="small-button" aria-label=${say("regenerate")} title=${say("regenerate")} onClick=${() => chat.regenerate(turn)}>
        <${Icon} name="again" />
      </button>`}
    </div>`}
  </article>`;
}
