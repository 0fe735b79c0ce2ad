// One conversation in the list: open, rename, export, delete.

import { say } from "../language/words.js";
import { html, useLayoutEffect, useRef, useState } from "./html.js";
import { Menu } from "./menu.js";
import { fileName, saveFile } from "./save_file.js";

/** `found`: where a search found it: {turn, before, match, after}. */
export function ConversationItem({ chat, summary, found, onChoose }) {
  const [renaming, setRenaming] = useState(false);
  const { id } = summary;
  const title = summary.title || summary.words || say("untitled");
  if (renaming) {
    const done = (text) => {
      setRenaming(false);
      if (text !== null) chat.rename(id, text);
    };
    return html`<li><${TitleField} title=${title} onDone=${done} /></li>`;
  }
  const items = [
    { label: say("rename"), act: () => setRenaming(true) },
    { label: say("exportMarkdown"), act: async () => saveFile(fileName(title, ".md"), await chat.asMarkdown(id)) },
    { label: say("exportOne"), act: async () => saveFile(fileName(title, ".json"), await chat.exported(id)) },
    { label: say("remove"), act: () => chat.remove(id), danger: true },
  ];
  const current = id === chat.open.id;
  return html`<li class=${current ? "current" : ""}>
    <button
      type="button"
      class="conversation"
      aria-current=${current ? "page" : undefined}
      title=${title}
      onClick=${() => onChoose(id, found)}
      onDblClick=${() => setRenaming(true)}
    >
      ${chat.isRunning(summary) && html`<span class="running" aria-hidden="true"></span>`}
      <span class="conversation-title">${title}</span>
      ${found?.turn && html`<span class="found-text">${found.before}<mark>${found.match}</mark>${found.after}</span>`}
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
