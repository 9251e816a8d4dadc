// The page: who asks (a key), which view (the address's fragment), light or dark.

import { Dead } from "./dead.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { Guard } from "./parts.js";
import { useService } from "./served.js";
import { key } from "./service.js";
import { Try } from "./try.js";
import { html, render, useEffect, useState } from "./view.js";
import { Watch } from "./watch.js";

const VIEWS = { try: ["Try", Try], watch: ["Watch", Watch], models: ["Models", Models], jobs: ["Jobs", Jobs], dead: ["Dead letters", Dead] };
const THEMES = ["auto", "light", "dark"];
const THEME = "ml-service.theme";
const KEY = /^[\x21-\x7e]+$/; // what a header can hold

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function useFragment() {
  const read = () => {
    const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
    return { name: Object.hasOwn(VIEWS, name) ? name : "try", rest: rest.map(decoded) };
  };
  const [place, setPlace] = useState(read);
  useEffect(() => {
    const moved = () => setPlace(read());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return place;
}

const TOLD = {
  "": ["", "asking …"],
  up: ["good", "connected"],
  degraded: ["bad", "Redis is away: nothing can be queued"],
  down: ["bad", "the service does not answer; trying again"],
  key: ["bad", "a key is needed"],
};

function KeyForm({ refused, onKey }) {
  const [typed, setTyped] = useState("");
  const [odd, setOdd] = useState(false);
  const save = (event) => {
    event.preventDefault();
    setOdd(!KEY.test(typed.trim()));
    if (!KEY.test(typed.trim())) return;
    key.set(typed.trim());
    onKey(typed.trim());
  };
  return html`<form class="card narrow" onSubmit=${save}>
    <h1>API key</h1>
    <p>This service asks for a key. It stays in this tab, and is forgotten when you close it.</p>
    ${(refused || odd) && html`<p class="trouble" role="alert">This key is not known here.</p>`}
    <label for="key">Key</label>
    <input id="key" type="password" autocomplete="off" required value=${typed} onInput=${(event) => setTyped(event.target.value)} />
    <button type="submit" class="primary">Use it</button>
  </form>`;
}

/** At once, and for the next time: what waited for a paint would show the other colours for a moment. */
function applied(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(THEME, theme);
  dispatchEvent(new Event("themechange"));
  return theme;
}

/** The fragment is the view's: the link must not change it. */
function toContent(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

const Broken = (error) => html`<p class="trouble" role="alert">This view has broken (${error.message}). The others have not.</p>`;

function Page() {
  const { name, rest } = useFragment();
  const [secret, setSecret] = useState(key.get());
  const [theme, setTheme] = useState(() => applied(localStorage.getItem(THEME) ?? "auto"));
  const service = useService(secret);
  useEffect(() => {
    document.title = `${VIEWS[name][0]} · ml-service`;
  }, [name]);
  const forget = () => {
    key.set("");
    setSecret("");
  };
  const [tone, told] = TOLD[service.state];
  const View = VIEWS[name][1];
  return html`
    <a class="skip" href="#main" onClick=${toContent}>To the content</a>
    <header>
      <a class="brand" href="#/try"><img src="icon.svg" alt="" width="24" height="24" /> ml-service</a>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(
          ([one, [title]]) => html`<a href=${`#/${one}`} aria-current=${one === name ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <div class="aside">
        <span class=${`light ${tone}`} role="status">${told}</span>
        ${secret && html`<button type="button" class="quiet" onClick=${forget}>Forget the key</button>`}
        <label class="hidden" for="theme">Colours</label>
        <select id="theme" value=${theme} onChange=${(event) => setTheme(applied(event.target.value))}>
          ${THEMES.map((one) => html`<option value=${one}>${one}</option>`)}
        </select>
        <a href="../docs">API</a>
      </div>
    </header>
    <main id="main" tabindex="-1">
      ${service.state === "key" ? html`<${KeyForm} refused=${secret !== ""} onKey=${setSecret} />` : html`<${Guard} key=${name + secret} otherwise=${Broken}><${View} rest=${rest} service=${service} up=${["", "up"].includes(service.state)} /></${Guard}>`}
    </main>
  `;
}

render(html`<${Page} />`, document.getElementById("page"));
