// A turn of the model's: its thoughts and text, how it ended, and what it took.

import { say } from "../language/words.js";
import { blocksOf } from "../text/markdown.js";
import { Branches } from "./branches.js";
import { CopyButton } from "./copy_button.js";
import { Failure } from "./failure.js";
import { html } from "./html.js";
import { Icon } from "./icon.js";
import { Measured } from "./measured.js";
import { Progress } from "./progress.js";
import { Prose } from "./prose.js";
import { TextEditor } from "./text_field.js";
import { Thoughts, ToolCalls } from "./thoughts.js";
import { Time } from "./time.js";

/** `dropped`: how many more turns this answer did without than the one before. */
export function Answer({ chat, place, order, last, dropped, editing, setEditing }) {
  const { turn } = place;
  const writing = turn.state === "writing";
  return html`<article id=${`turn-${turn.id}`} class=${`answer ${turn.state}`} aria-label=${say("answer", order)} aria-busy=${String(writing)}>
    ${dropped > 0 && html`<p class="remark">${say("leftOut", dropped)}</p>`}
    <${Thoughts} turn=${turn} />
    ${editing
      ? html`<${TextEditor}
          text=${turn.text}
          hint=${say("editAnswerHint")}
          action=${say("save")}
          onDone=${(text) => {
            setEditing(null);
            if (text !== null && text !== turn.text) chat.edit(turn, text);
          }}
        />`
      : html`<div class="prose" dir="auto">
          ${turn.text && html`<${Prose} text=${turn.text} read=${blocksOf} growing=${writing} />`}
        </div>`}
    <${ToolCalls} calls=${turn.calls} />
    ${writing && html`<${Progress} turn=${turn} />`}
    ${turn.state === "failed" && html`<${Failure} fault=${turn.fault} onRetry=${() => chat.regenerate(turn)} onEdit=${() => setEditing(turn.parent)} />`}
    ${!writing && !editing && html`<${Ending} ...${{ chat, turn, last }} />`}
    ${!writing &&
    !editing &&
    html`<div class=${`turn-foot ${last ? "shown" : ""}`}>
      ${turn.text && html`<${CopyButton} text=${turn.text} label=${say("copyAnswer")} />`}
      ${turn.text &&
      html`<button type="button" class="small-button" aria-label=${say("editAnswer")} title=${say("editAnswer")} onClick=${() => setEditing(turn.id)}>
        <${Icon} name="edit" />
      </button>`}
      ${turn.state !== "failed" &&
      html`<button type="button" class="small-button" aria-label=${say("regenerate")} title=${say("regenerate")} onClick=${() => chat.regenerate(turn)}>
        <${Icon} name="again" />
      </button>`}
      <${Branches} ...${{ chat, place }} />
      <${Time} at=${turn.created} />
      <${Measured} turn=${turn} />
    </div>`}
  </article>`;
}

/** Why an answer is not whole, and the button to go on. */
function Ending({ chat, turn, last }) {
  const cut = turn.finish === "length";
  const remark = turn.state === "stopped" ? say("stopped") : cut ? say("lengthReached") : turn.edited ? say("edited") : "";
  const partial = cut || ["stopped", "failed"].includes(turn.state);
  if (!remark && !partial) return null;
  return html`<p class="remark">
    ${remark}
    ${last &&
    partial &&
    (turn.text || turn.thoughts) &&
    !turn.calls &&
    html`<button type="button" class="link" disabled=${!chat.info} onClick=${() => chat.continue(turn)}>${say("continue")}</button>`}
  </p>`;
}
