// The turns of the open conversation, following the answer as it grows until the reader scrolls away.

import { shownPath } from "../conversation/tree.js";
import { say } from "../language/words.js";
import { onCodeClick, onCopy } from "../text/clipboard.js";
import { Answer } from "./answer.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";
import { Question } from "./question.js";

const NEAR_END = 80;

/** Scroll to a text in a turn and mark it; to the turn where the text is not shown. */
function showFound(turn, text) {
  const walker = document.createTreeWalker(turn, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const at = node.data.toLocaleLowerCase().indexOf(text.toLocaleLowerCase());
    if (at < 0 || !node.parentElement.checkVisibility()) continue;
    node.parentElement.scrollIntoView({ block: "center" });
    const range = new Range();
    range.setStart(node, at);
    range.setEnd(node, at + text.length);
    globalThis.CSS?.highlights?.set("found", new Highlight(range));
    return;
  }
  turn.scrollIntoView({ block: "start" });
}

export function Thread({ chat, editing, setEditing }) {
  const scroller = useRef(null);
  const followed = useRef(true);
  const questions = useRef(0);
  const [atEnd, setAtEnd] = useState(true);
  const path = shownPath(chat.open);

  const toEnd = () => {
    followed.current = true;
    scroller.current.scrollTop = scroller.current.scrollHeight;
  };
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = scroller.current;
    followed.current = scrollHeight - scrollTop - clientHeight < NEAR_END;
    setAtEnd(followed.current);
  };

  useLayoutEffect(() => {
    // A new question is shown wherever the reader was.
    const asked = path.filter(({ turn }) => turn.role === "user").length > questions.current;
    questions.current = path.length / 2;
    if (asked || followed.current) toEnd();
  });

  useEffect(() => {
    const turn = chat.found && document.getElementById(`turn-${chat.found.turn}`);
    if (!turn) return;
    followed.current = false;
    showFound(turn, chat.found.match);
    chat.found = null;
  });

  const droppedIn = (index) => path[index]?.turn.dropped ?? 0;
  return html`<div ref=${scroller} class="scroller" tabindex="0" onScroll=${onScroll}>
      <div class="thread" role="log" aria-live="off" onClick=${onCodeClick} onCopy=${onCopy}>
        ${path.map((place, index) => {
          const { id, role } = place.turn;
          const shown = { chat, place, order: Math.floor(index / 2) + 1, editing: editing === id, setEditing };
          return role === "user"
            ? html`<${Question} key=${id} ...${shown} />`
            : html`<${Answer} key=${id} ...${shown} last=${index === path.length - 1} dropped=${droppedIn(index) - droppedIn(index - 2)} />`;
        })}
      </div>
    </div>
    <div class="end-place">
      ${!atEnd &&
      html`<button type="button" class="to-end" aria-label=${say("toEnd")} title=${say("toEnd")} onClick=${toEnd}>
        <${Icon} name="down" />
      </button>`}
    </div>`;
}
