// The list of conversations, with search, and the choices of language and theme.

import { matches } from "../conversation/tree.js";
import { BadFile } from "../conversation/exchange.js";
import { say } from "../language/words.js";
import { saveFile } from "./save_file.js";
import { ConversationItem } from "./conversation_item.js";
import { html, useRef, useState } from "./html.js";
import { Brand, Icon } from "./icon.js";
import { Menu } from "./menu.js";

const DAY = 86_400_000;

/** Conversations by age: [[heading, [conversation]]], newest first, without empty groups. */
function byAge(conversations) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups = { today: [], yesterday: [], week: [], older: [] };
  for (const conversation of conversations) {
    const age = midnight - conversation.updated;
    groups[age <= 0 ? "today" : age <= DAY ? "yesterday" : age <= 7 * DAY ? "week" : "older"].push(conversation);
  }
  return Object.entries(groups).filter(([, members]) => members.length);
}

export function Sidebar({ chat, preferences, searchField, onChoose, onNew, onHide, onLanguage, onShortcuts }) {
  const [query, setQuery] = useState("");
  const list = useRef(null);
  const found = chat.sorted.filter((conversation) => matches(conversation, query));

  const onSearchKey = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && found.length) onChoose(found[0].id);
    else if (event.key === "ArrowDown") list.current.querySelector(".conversation")?.focus();
    else if (event.key === "Escape" && query) setQuery("");
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  return html`<nav id="sidebar" class="sidebar" aria-label=${say("conversations")}>
    <div class="sidebar-top">
      <${Brand} />
      <button type="button" class="icon-button" aria-label=${say("hideSidebar")} title=${say("hideSidebar")} onClick=${onHide}>
        <${Icon} name="sidebar" />
      </button>
    </div>
    <button type="button" class="new-chat" onClick=${onNew}><${Icon} name="new" />${say("newChat")}</button>
    <label class="search">
      <${Icon} name="search" />
      <input
        ref=${searchField}
        type="search"
        value=${query}
        aria-label=${say("search")}
        placeholder=${say("searchHint")}
        onInput=${(event) => setQuery(event.target.value)}
        onKeyDown=${onSearchKey}
      />
    </label>
    <div ref=${list} class="conversations">
      ${byAge(found).map(
        ([age, members]) => html`<section key=${age}>
          <h2>${say(age)}</h2>
          <ul>
            ${members.map(
              (conversation) =>
                html`<${ConversationItem} key=${conversation.id} ...${{ chat, conversation }} onChoose=${onChoose} />`,
            )}
          </ul>
        </section>`,
      )}
      ${!found.length && html`<p class="quiet">${say(query ? "noneFound" : "noneYet")}</p>`}
    </div>
    <${SidebarFoot} ...${{ chat, preferences, onLanguage, onShortcuts }} />
  </nav>`;
}

function SidebarFoot({ chat, preferences, onLanguage, onShortcuts }) {
  const file = useRef(null);

  const onFile = async (event) => {
    const [chosen] = event.target.files;
    event.target.value = "";
    if (!chosen) return;
    try {
      const count = chat.imported(await chosen.text());
      chat.notice(say("imported", count));
    } catch (error) {
      if (!(error instanceof BadFile)) throw error;
      chat.notice(say(error.reason));
    }
  };

  const onTheme = (event) => {
    preferences.set("theme", event.target.value);
    preferences.applyTheme();
  };

  const items = [
    { label: say("importFile"), act: () => file.current.click() },
    ...(chat.conversations.size
      ? [{ label: say("exportAll"), act: () => saveFile("bmqwen-conversations.json", chat.exported()) }]
      : []),
    { label: say("keyboard"), act: onShortcuts },
    ...(chat.info?.key_required ? [{ label: say("changeKey"), act: () => chat.wantKey() }] : []),
  ];

  return html`<div class="sidebar-foot">
    <select aria-label=${say("language")} title=${say("language")} value=${preferences.get("language")} onChange=${(event) => onLanguage(event.target.value)}>
      <option value="auto">A文 ${say("auto")}</option>
      <option value="en">English</option>
      <option value="zh">中文</option>
    </select>
    <select aria-label=${say("theme")} title=${say("theme")} value=${preferences.get("theme")} onChange=${onTheme}>
      <option value="auto">◐ ${say("auto")}</option>
      <option value="light">${say("light")}</option>
      <option value="dark">${say("dark")}</option>
    </select>
    <${Menu} label=${say("more")} items=${items} />
    <input ref=${file} class="offscreen" type="file" accept="application/json,.json" tabindex="-1" aria-label=${say("importFile")} onChange=${onFile} />
  </div>`;
}
