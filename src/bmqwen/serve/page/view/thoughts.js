// What the model thought before its answer, folded; and the tools that it called.

import { number, say } from "../language/words.js";
import { blocksOf } from "../text/markdown.js";
import { html, useState } from "./html.js";
import { Icon } from "./icon.js";
import { Prose } from "./prose.js";

/** Something folded below a line that says what it is. */
function Folded({ name, title, children }) {
  const [open, setOpen] = useState(false);
  return html`<div class=${`folded-part ${name} ${open ? "open" : ""}`}>
    <button type="button" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>
      <${Icon} name="right" />${title}
    </button>
    ${open && html`<div class="folded-text" dir="auto">${children()}</div>`}
  </div>`;
}

export function Thoughts({ turn }) {
  if (!turn.thoughts) return null;
  const thinking = turn.state === "writing" && !turn.text && !turn.calls;
  const seconds = turn.thinkingMs === undefined ? null : number(turn.thinkingMs / 1000, turn.thinkingMs < 9_950 ? 1 : 0);
  const title = thinking ? say("thinking") : seconds === null ? say("thoughts") : say("thoughtFor", seconds);
  return html`<${Folded} name=${thinking ? "thoughts breathing" : "thoughts"} title=${title}>
    ${() => html`<${Prose} text=${turn.thoughts} read=${blocksOf} growing=${thinking} />`}
  <//>`;
}

export function ToolCalls({ calls = [] }) {
  return calls.filter(Boolean).map(
    (call, index) => html`<${Folded} key=${index} name="call" title=${say("called", call.name)}>
      ${() => html`<${Prose} text=${`\`\`\`json\n${pretty(call.arguments)}\n\`\`\``} read=${blocksOf} />`}
    <//>`,
  );
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
