// The whole page: sidebar, conversation, settings, dialogs, and the keys that work everywhere.

import { lastShown, shownPath, titleOf } from "../conversation/tree.js";
import { languageFor, say, speak } from "../language/words.js";
import { AboutDialog } from "./about_dialog.js";
import { Composer } from "./composer.js";
import { DropPlace } from "./drop_place.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { Icon } from "./icon.js";
import { KeyDialog } from "./key_dialog.js";
import { Notice } from "./notice.js";
import { Settings } from "./settings.js";
import { ShortcutsDialog } from "./shortcuts_dialog.js";
import { Sidebar } from "./sidebar.js";
import { SpokenStatus } from "./spoken_status.js";
import { Thread } from "./thread.js";
import { useChanges, useNarrow, useWide } from "./watch.js";
import { Welcome } from "./welcome.js";

export function Page({ chat, preferences }) {
  useChanges(chat);
  const narrow = useNarrow();
  const [drawer, setDrawer] = useState(false);
  const [shelf, setShelf] = useState(preferences.get("sidebar"));
  const [settings, setSettings] = useState(false);
  const [dialog, setDialog] = useState(null);
  const [editing, setEditing] = useState(null);
  const [language, setLanguage] = useState(preferences.get("language"));
  const wide = useWide();
  const dropped = useRef(null);
  const composer = useRef(null);
  const searchField = useRef(null);
  const open = chat.open;
  const listShown = narrow ? drawer : shelf;

  const showList = (shown) => {
    if (narrow) {
      setDrawer(shown);
      return;
    }
    preferences.set("sidebar", shown);
    setShelf(shown);
  };
  const toConversation = (id, found) => {
    chat.show(id, found);
    setEditing(null);
    setDrawer(false);
    if (!narrow) composer.current?.focus();
  };
  const choose = (id, found = null) => {
    if (id !== chat.open.id) history.pushState(null, "", id ? `#${id}` : location.pathname);
    toConversation(id, found);
  };
  const search = () => {
    showList(true);
    // The field exists, but can be focused only once it is shown.
    setTimeout(() => searchField.current?.focus());
  };
  const changeLanguage = (choice) => {
    preferences.set("language", choice);
    speak(languageFor(choice));
    setLanguage(choice);
  };
  const editLast = () => {
    const last = shownPath(open).findLast(({ turn }) => turn.role === "user");
    if (last && !chat.isRunning(open)) setEditing(last.turn.id);
  };
  const escape = () => {
    if (narrow && drawer) setDrawer(false);
    else if (settings && !wide) setSettings(false);
    else if (chat.isRunning(open)) chat.stop();
    else if (settings) setSettings(false);
  };

  usePageKeys({ escape, search, compose: () => composer.current?.focus(), fresh: () => choose(null) });
  useAddress(chat, toConversation);
  useEffect(() => {
    const title = titleOf(open);
    document.title = title ? `${title} · bmqwen` : "bmqwen";
  });

  const empty = lastShown(open) === "root";
  const shape = `page ${listShown ? "with-list" : ""} ${settings ? "with-settings" : ""}`;
  // Drawn again only when the list has changed: not for each word of an answer.
  const sidebar = useMemo(
    () => html`<${Sidebar}
      ...${{ chat, preferences, searchField }}
      onChoose=${choose}
      onNew=${() => choose(null)}
      onHide=${() => showList(false)}
      onLanguage=${changeLanguage}
      onShortcuts=${() => setDialog("shortcuts")}
      onAbout=${() => setDialog("about")}
    />`,
    [chat.listVersion, open.id, language, narrow, Boolean(chat.info?.key_required)],
  );
  const covered = (narrow && drawer) || (settings && !wide);
  return html`<div class=${shape}>
    ${sidebar}
    ${narrow && drawer && html`<div class="scrim" onClick=${() => setDrawer(false)}></div>`}
    <main class="main" inert=${covered}>
      <${Header} ...${{ chat, listShown, settings }} onList=${() => showList(true)} onNew=${() => choose(null)} onSettings=${() => setSettings(!settings)} />
      ${!chat.keeps && html`<p class="banner">${say("notKept")}</p>`}
      ${empty
        ? html`<${Welcome} chat=${chat} onAsk=${(text) => chat.ask(text)} />`
        : html`<${Thread} key=${open.id} ...${{ chat, editing, setEditing }} />`}
      <${Composer} key=${open.id} ...${{ chat, narrow, dropped }} field=${composer} onEditLast=${editLast} />
    </main>
    ${settings && !wide && html`<div class="scrim" onClick=${() => setSettings(false)}></div>`}
    ${settings && html`<${Settings} chat=${chat} onClose=${() => setSettings(false)} />`}
    ${chat.keyWanted && html`<${KeyDialog} chat=${chat} />`}
    ${dialog === "shortcuts" && html`<${ShortcutsDialog} onClose=${() => setDialog(null)} />`}
    ${dialog === "about" && html`<${AboutDialog} chat=${chat} onClose=${() => setDialog(null)} />`}
    <${DropPlace} onFiles=${(files) => dropped.current?.(files)} />
    <${Notice} chat=${chat} />
    <${SpokenStatus} chat=${chat} />
  </div>`;
}

function Header({ chat, listShown, settings, onList, onNew, onSettings }) {
  const title = titleOf(chat.open);
  return html`<header class="header">
    ${!listShown &&
    html`<button type="button" class="icon-button" aria-label=${say("showSidebar")} title=${say("showSidebar")} aria-controls="sidebar" onClick=${onList}>
      <${Icon} name="sidebar" />
    </button>`}
    <h1 title=${title}>${title || say("untitled")}</h1>
    ${!listShown &&
    html`<button type="button" class="icon-button" aria-label=${say("newChat")} title=${say("newChat")} onClick=${onNew}>
      <${Icon} name="new" />
    </button>`}
    <button type="button" class="icon-button" aria-label=${say("settings")} title=${say("settings")} aria-expanded=${String(settings)} onClick=${onSettings}>
      <${Icon} name="sliders" />
    </button>
  </header>`;
}

/** Ctrl or Cmd with K and with Shift and O, the slash, Escape. */
function usePageKeys({ escape, search, compose, fresh }) {
  useEffect(() => {
    const onKey = (event) => {
      const writing = event.target.closest?.("input, textarea, select, [role=menu]");
      const command = event.ctrlKey || event.metaKey;
      if (event.isComposing || document.querySelector("dialog[open]")) return;
      if (event.key === "Escape") escape();
      else if (command && !event.shiftKey && event.key.toLowerCase() === "k") search();
      else if (command && event.shiftKey && event.key.toLowerCase() === "o") fresh();
      else if (event.key === "/" && !writing && !command) compose();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
}

/** The address names the open conversation: reload and the back button find it. */
function useAddress(chat, toConversation) {
  useEffect(() => {
    const follow = () => toConversation(location.hash.slice(1) || null);
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  });
  useLayoutEffect(() => {
    // Not with the next frame: a page that is reloaded in the next moment must find what was asked.
    const name = () => {
      const { id } = chat.open;
      if (chat.summaries.has(id) && location.hash.slice(1) !== id) history.replaceState(null, "", `#${id}`);
    };
    chat.addEventListener("change", name);
    return () => chat.removeEventListener("change", name);
  }, [chat]);
}
