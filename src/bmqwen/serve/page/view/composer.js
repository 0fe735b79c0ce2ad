// The field for the next message, with files, send and stop; below it the model and how full its context is.

import { FileRefused, readAttachment } from "../conversation/attachment.js";
import { thinkingSwitch } from "../conversation/settings.js";
import { say, spoken } from "../language/words.js";
import { drafts } from "../state/drafts.js";
import { DraftCounter } from "../state/room.js";
import { Attachments } from "./attachments.js";
import { ContextGauge } from "./context_gauge.js";
import { faultWords } from "./failure.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";
import { modelName } from "./model_name.js";
import { fitHeight, sends } from "./text_field.js";

export function Composer({ chat, field, narrow, onEditLast, dropped }) {
  const { id } = chat.open;
  const [text, setText] = useState(() => drafts.get(chat.open, chat.summaries));
  const [files, setFiles] = useState(() => drafts.filesOf(chat.open, chat.summaries));
  const [reading, setReading] = useState(null);
  const attaching = useRef(null);
  const queue = useRef(Promise.resolve());
  const tokens = useDraftTokens(chat, text, files);
  const chooser = useRef(null);
  const running = chat.isRunning(chat.open);
  const ready = (text.trim() || files.length) && !running && !reading && chat.info;

  useLayoutEffect(() => fitHeight(field.current), [text]);
  useEffect(() => {
    if (!narrow) field.current.focus();
  }, [id]);

  // What is still to be read belongs to the conversation that is left.
  const leave = () => {
    attaching.current?.abort();
    queue.current = null;
  };
  useEffect(() => leave, []);

  const change = (value) => {
    setText(value);
    drafts.set(chat.open, chat.summaries, value);
  };
  const changeFiles = (chosen) => {
    setFiles(chosen);
    drafts.setFiles(chat.open, chat.summaries, chosen);
  };
  // One after another, in the order in which they were chosen.
  const attach = (chosen) => {
    const done = queue.current.then(() => queue.current && attachAll(chosen));
    queue.current = done.catch(() => {});
    return done;
  };
  const attachAll = async (chosen) => {
    const largest = (chat.info?.limits.body_bytes ?? 4 << 20) / 2;
    const stopping = (attaching.current = new AbortController());
    const { signal } = stopping;
    for (const file of chosen) {
      if (signal.aborted) break;
      const onPage = (page, total) => setReading({ name: file.name, page, total, stop: () => stopping.abort() });
      try {
        const read = await readAttachment(file, largest, { signal, onPage });
        changeFiles([...drafts.filesOf(chat.open, chat.summaries), read]);
      } catch (error) {
        if (error instanceof FileRefused) chat.notice(error.message);
        else if (error.name !== "AbortError") throw error;
      }
      setReading(null);
    }
    field.current?.focus();
  };
  dropped.current = attach;

  const submit = () => {
    if (!ready) return;
    change("");
    changeFiles([]);
    chat.ask(text.trim(), files);
  };
  const onKey = (event) => {
    if (sends(event)) submit();
    else if (event.key === "ArrowUp" && !text && !event.isComposing) onEditLast();
    else return;
    event.preventDefault();
  };
  const onPaste = (event) => {
    const pasted = [...event.clipboardData.files];
    // A program that copies text may add a picture of it.
    if (!pasted.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    attach(pasted);
  };

  return html`<div class="composer">
    <div class="composer-box">
      <${Attachments} files=${files} tokens=${files.length ? tokens : null} onRemove=${(index) => changeFiles(files.toSpliced(index, 1))} />
      ${reading && html`<${Reading} ...${reading} />`}
      <div class="composer-row">
        <button type="button" class="icon-button" aria-label=${say("attach")} title=${say("attach")} onClick=${() => chooser.current.click()}>
          <${Icon} name="clip" />
        </button>
        <input
          ref=${chooser}
          class="offscreen"
          type="file"
          multiple
          tabindex="-1"
          aria-label=${say("attach")}
          onChange=${(event) => {
            attach([...event.target.files]);
            event.target.value = "";
          }}
        />
        <${ThinkingButton} chat=${chat} />
        <textarea
          ref=${field}
          rows="1"
          dir="auto"
          aria-label=${say("message")}
          placeholder=${say("messageHint")}
          value=${text}
          onInput=${(event) => change(event.target.value)}
          onKeyDown=${onKey}
          onPaste=${onPaste}
        ></textarea>
        ${running
          ? html`<button type="button" class="send stop" aria-label=${say("stop")} title="${say("stop")} (Esc)" onClick=${() => chat.stop()}>
              <span class="stop-mark"></span>
            </button>`
          : html`<button type="button" class="send" aria-label=${say("send")} title=${say("send")} disabled=${!ready} onClick=${submit}>
              <${Icon} name="send" />
            </button>`}
      </div>
    </div>
    <${Served} chat=${chat} draft=${tokens} />
  </div>`;
}

/** Whether the model thinks before it answers, where that can be chosen. */
function ThinkingButton({ chat }) {
  const thinking = thinkingSwitch(chat.info, chat.open.settings);
  if (!thinking) return null;
  const { row, on } = thinking;
  const { label, help } = row.words[spoken()];
  const toggle = () => chat.setSetting(row.name, on === row.default ? !on : null);
  return html`<button type="button" class="thinking-button" aria-label=${label} aria-pressed=${String(on)} title=${help} onClick=${toggle}>
    <${Icon} name="thought" /><span>${label}</span>
  </button>`;
}

/** The PDF that is being read, which may take a while. */
function Reading({ name, page, total, stop }) {
  const label = say("pdfCancel", name);
  return html`<p class="reading">
    <span>${say("pdfReading", name, page, total)}</span>
    <button type="button" class="small-button" aria-label=${label} title=${label} onClick=${stop}><${Icon} name="close" /></button>
  </p>`;
}

/** Tokens of the message that is being written; null while nobody knows. */
function useDraftTokens(chat, text, files) {
  const [tokens, setTokens] = useState(0);
  const counter = useRef(null);
  counter.current ??= new DraftCounter(setTokens);
  useEffect(() => {
    if (chat.info) counter.current.count(text, files, chat.preferences.key);
  }, [text, files, Boolean(chat.info)]);
  useEffect(() => () => counter.current.stop(), []);
  return tokens;
}

function Served({ chat, draft }) {
  if (!chat.info) {
    const words = chat.infoFault ? faultWords(chat.infoFault) : say("connecting");
    return html`<p class="served trouble">${words}</p>`;
  }
  const { precision, engine } = chat.info;
  const model = modelName(chat.info);
  return html`<div class="served">
    <p title=${[model, precision, engine].filter(Boolean).join(" · ")}><b>${model}</b><span>${precision.split(/[ ,]/u)[0]}</span><span>${engine}</span></p>
    <${ContextGauge} chat=${chat} draft=${draft ?? 0} />
  </div>`;
}
