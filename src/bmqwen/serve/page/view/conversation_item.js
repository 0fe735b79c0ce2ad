// One conversation in the list: open, rename, export, delete.

import { titleOf } from "../conversation/tree.js";
import { say } from "../language/words.js";
import { html, useLayoutEffect, useRef, useState } from "./html.js";
import { Menu } from "./menu.js";
import { saveFile } from "./save_file.js";

export function ConversationItem({ chat, conversation, onChoose }) {
  const [renaming, setRenaming] = useState(false);
  const title = titleOf(conversation) || say("untitled");
  if (renaming) {
    const done = (text) => {
      setRenaming(false);
      if (text !== null) chat.rename(conversation, text);
    };
    return html`<li><${TitleField} title=${title} onDone=${done} /></li>`;
  }
  const items = [
    { label: say("rename"), act: () => setRenaming(true) },
    { label: say("exportOne"), act: () => saveFile(fileName(title), chat.exported(conversation)) },
    { label: say("remove"), act: () => chat.remove(conversation), danger: true },
  ];
  const current = conversation === chat.open;
  return html`<li class=${current ? "current" : ""}>
    <button
      type="button"
      class="conversation"
      aria-current=${current ? "page" : undefined}
      title=${title}
      onClick=${() => onChoose(conversation.id)}
      onDblClick=${() => setRenaming(true)}
    >
      ${chat.isRunning(conversation) && html`<span class="running" aria-hidden="true"></span>`}
      <span class="conversation-title">${title}</span>
    </button>
    <${Menu} label=${say("actionsFor", title)} items=${items} />
  </li>`;
}

function TitleField({ title, onDone }) {
  const [text, setText] = useState(title);
  const field = useRef(null);
  const ended = useRef(false);
  useLayoutEffect(() => field.current.select(), []);

  // Taking the field away blurs it, which must not end it a second time.
  const end = (result) => {
    if (!ended.current) onDone(result);
    ended.current = true;
  };
  const onKey = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") end(text);
    else if (event.key === "Escape") end(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<input
    ref=${field}
    class="title-field"
    aria-label=${say("title")}
    maxlength="200"
    value=${text}
    onInput=${(event) => setText(event.target.value)}
    onKeyDown=${onKey}
    onBlur=${() => end(text)}
  />`;
}

/** A file name that every system takes. */
function fileName(title) {
  const safe = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/gu, "");
  return `bmqwen-${safe.slice(0, 40) || "conversation"}.json`;
}
