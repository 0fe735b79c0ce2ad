// For screen readers: that an answer is under way, and the answer once it is complete. A growing text is not read out.

import { lastShown } from "../conversation/tree.js";
import { say } from "../language/words.js";
import { html, useRef } from "./html.js";

const READ_OUT = 400;

export function SpokenStatus({ chat }) {
  const heard = useRef(null);
  const turn = chat.open.turns.get(lastShown(chat.open));
  let words = "";
  if (turn?.state === "writing") {
    heard.current = turn.id;
    words = say(turn.text ? "writing" : "reading");
  } else if (turn && turn.id === heard.current && turn.state === "done") {
    words = say("finished", turn.text.slice(0, READ_OUT));
  }
  return html`<div class="offscreen" role="status">${words}</div>`;
}
