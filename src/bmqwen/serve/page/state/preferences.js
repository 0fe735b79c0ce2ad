// The reader's choices for this browser: language, theme, sidebar, what new conversations begin with. The API key stays for the tab or, if wished, for good.

const NAME = "bmqwen.preferences";
const KEY_NAME = "bmqwen.key";
const DEFAULTS = { language: "auto", theme: "auto", sidebar: true, overflow: "drop", presets: [], preset: null };
const NO_PRESET = { system: "", settings: {} };

function read(storage, name) {
  try {
    return storage().getItem(name);
  } catch {
    return null;
  }
}

/** Storage may be switched off or full: then a choice lasts as long as the page. */
function write(storage, name, value) {
  try {
    if (value === null) storage().removeItem(name);
    else storage().setItem(name, value);
  } catch {
    return;
  }
}

const local = () => localStorage;
const session = () => sessionStorage;

export class Preferences {
  #values;
  #key;

  constructor() {
    let kept = null;
    try {
      kept = JSON.parse(read(local, NAME));
    } catch {
      kept = null;
    }
    this.#values = { ...DEFAULTS, ...kept };
    this.#key = read(session, KEY_NAME) ?? read(local, KEY_NAME);
  }

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    this.#values[name] = value;
    write(local, NAME, JSON.stringify(this.#values));
  }

  /** What new conversations begin with: {system, settings}. */
  get preset() {
    return this.#values.presets.find(({ name }) => name === this.#values.preset) ?? NO_PRESET;
  }

  /** Keep {name, system, settings}, in the place of one of the same name, and use it. */
  savePreset(preset) {
    const others = this.#values.presets.filter(({ name }) => name !== preset.name);
    this.set("presets", [...others, preset]);
    this.set("preset", preset.name);
  }

  removePreset(name) {
    this.set("presets", this.#values.presets.filter((preset) => preset.name !== name));
    if (this.#values.preset === name) this.set("preset", null);
  }

  get key() {
    return this.#key;
  }

  /** Keep a key (null: forget it) for this tab, or in this browser. */
  setKey(key, forGood) {
    this.#key = key;
    write(session, KEY_NAME, forGood ? null : key);
    write(local, KEY_NAME, forGood ? key : null);
  }

  /** Show the theme that is chosen or, on "auto", the system's. */
  applyTheme() {
    const theme = this.#values.theme;
    const dark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }
}
