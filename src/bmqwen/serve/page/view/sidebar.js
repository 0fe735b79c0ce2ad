// The list of conversations, with search, and the choices of language and theme.

import { BadFile } from "../conversation/exchange.js";
import { say, size } from "../language/words.js";
import { saveFile } from "./save_file.js";
import { ConversationItem } from "./conversation_item.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { Brand, Icon } from "./icon.js";
import { Menu } from "./menu.js";

const DAY = 86_400_000;
const LARGEST_IMPORT = 200_000_000;
// A list of a thousand is drawn in parts.
const SHOWN = 200;

// Typing goes on for so long.
const SEARCH_AFTER_MS = 150;

/** The search of all conversations, as it goes: {query, found, complete}; null without a query. */
function useSearch(chat) {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState({ places: [], complete: true });
  useEffect(() => {
    if (!query.trim()) return undefined;
    const ending = new AbortController();
    const timer = setTimeout(async () => {
      const places = [];
      let shown = 0;
      for await (const place of chat.search(query, ending.signal)) {
        places.push(place);
        if (performance.now() - shown < 100) continue;
        shown = performance.now();
        setFound({ places: [...places], complete: false });
      }
      if (!ending.signal.aborted) setFound({ places, complete: true });
    }, SEARCH_AFTER_MS);
    setFound((before) => ({ ...before, complete: false }));
    return () => {
      clearTimeout(timer);
      ending.abort();
    };
  }, [query]);
  return { query, setQuery, ...found };
}

/** Conversations by age: [[heading, [summary]]], newest first, without empty groups. */
function byAge(conversations) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups = { today: [], yesterday: [], week: [], older: [] };
  for (const conversation of conversations) {
    const age = midnight - conversation.updated;
    groups[age <= 0 ? "today" : age <= DAY ? "yesterday" : age <= 7 * DAY ? "week" : "older"].push(conversation);
  }
  return Object.entries(groups).filter(([, members]) => members.length);
}

export function Sidebar({ chat, preferences, searchField, onChoose, onNew, onHide, onLanguage, onShortcuts, onAbout }) {
  const { query, setQuery, places, complete } = useSearch(chat);
  const [most, setMost] = useState(SHOWN);
  const list = useRef(null);
  const searching = Boolean(query.trim());
  const found = new Map(places.map((place) => [place.summary.id, place]));
  const all = searching ? chat.sorted.filter(({ id }) => found.has(id)) : chat.sorted;

  const onSearchKey = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && all.length) onChoose(all[0].id, found.get(all[0].id));
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
    <div ref=${list} class="conversations" aria-busy=${String(searching && !complete)}>
      ${byAge(all.slice(0, most)).map(
        ([age, members]) => html`<section key=${age}>
          <h2>${say(age)}</h2>
          <ul>
            ${members.map(
              (summary) =>
                html`<${ConversationItem} key=${summary.id} ...${{ chat, summary, onChoose }} found=${searching ? found.get(summary.id) : null} />`,
            )}
          </ul>
        </section>`,
      )}
      ${all.length > most && html`<button type="button" class="link more" onClick=${() => setMost(most + SHOWN)}>${say("showMore", all.length - most)}</button>`}
      ${!all.length && (complete || !searching) && html`<p class="quiet">${say(searching ? "noneFound" : "noneYet")}</p>`}
    </div>
    <${SidebarFoot} ...${{ chat, preferences, onLanguage, onShortcuts, onAbout }} />
  </nav>`;
}

function SidebarFoot({ chat, preferences, onLanguage, onShortcuts, onAbout }) {
  const file = useRef(null);

  const onFile = async (event) => {
    const [chosen] = event.target.files;
    event.target.value = "";
    if (!chosen) return;
    if (chosen.size > LARGEST_IMPORT) {
      chat.notice(say("importLarge", size(chosen.size), size(LARGEST_IMPORT)));
      return;
    }
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
    ...(chat.summaries.size
      ? [{ label: say("exportAll"), act: async () => saveFile("bmqwen-conversations.json", await chat.exported()) }]
      : []),
    { label: say("keyboard"), act: onShortcuts },
    { label: say("about"), act: onAbout },
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
