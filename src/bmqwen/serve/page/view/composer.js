// The field for the next message, with send and stop; below it the model and how full its context is.

import { say } from "../language/words.js";
import { drafts } from "../state/drafts.js";
import { ContextGauge } from "./context_gauge.js";
import { html, useEffect, useLayoutEffect, useState } from "./html.js";
import { Icon } from "./icon.js";
import { fitHeight, sends } from "./text_field.js";

export function Composer({ chat, field, narrow, onEditLast }) {
  const { id } = chat.open;
  const [text, setText] = useState(() => drafts.get(chat.open, chat.conversations));
  const running = chat.isRunning(chat.open);
  const ready = text.trim() && !running && chat.info;

  useLayoutEffect(() => fitHeight(field.current), [text]);
  useEffect(() => {
    if (!narrow) field.current.focus();
  }, [id]);

  const change = (value) => {
    setText(value);
    drafts.set(chat.open, chat.conversations, value);
  };
  const submit = () => {
    if (!ready) return;
    change("");
    chat.ask(text.trim());
  };
  const onKey = (event) => {
    if (sends(event)) submit();
    else if (event.key === "ArrowUp" && !text && !event.isComposing) onEditLast();
    else return;
    event.preventDefault();
  };

  return html`<div class="composer">
    <div class="composer-box">
      <textarea
        ref=${field}
        rows="1"
        dir="auto"
        aria-label=${say("message")}
        placeholder=${say("messageHint")}
        value=${text}
        onInput=${(event) => change(event.target.value)}
        onKeyDown=${onKey}
      ></textarea>
      ${running
        ? html`<button type="button" class="send stop" aria-label=${say("stop")} title="${say("stop")} (Esc)" onClick=${() => chat.stop()}>
            <span class="stop-mark"></span>
          </button>`
        : html`<button type="button" class="send" aria-label=${say("send")} title=${say("send")} disabled=${!ready} onClick=${submit}>
            <${Icon} name="send" />
          </button>`}
    </div>
    <${Served} chat=${chat} />
  </div>`;
}

function Served({ chat }) {
  if (!chat.info) {
    const words = chat.infoFault ? say("fault")[chat.infoFault.kind] : say("connecting");
    return html`<p class="served trouble">${words}</p>`;
  }
  const { model, precision, engine } = chat.info;
  return html`<div class="served">
    <p title=${[model, precision, engine].join(" · ")}><b>${model}</b><span>${precision}</span><span>${engine}</span></p>
    <${ContextGauge} chat=${chat} />
  </div>`;
}
