// Elements out of data. Text only ever becomes text nodes and attributes, never markup.

// An element; `properties` are attributes, except `class`, functions that listen (`onclick`), and
// booleans, which are set or left out. Children are elements, texts, or nothing.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Calls `work` once nothing more has come for a while.
export function debounced(work, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), milliseconds);
  };
}

// A value that the browser keeps for this page; nothing where it keeps nothing.
export function remembered(name) {
  try {
    return localStorage.getItem(`bardlet.${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`bardlet.${name}`, value);
  } catch {
    // a page from disk, or one that may keep nothing
  }
}

// Results by key, the newest `limit` of them.
export class Cache {
  constructor(limit) {
    this.limit = limit;
    this.values = new Map();
  }

  async get(key, make) {
    if (!this.values.has(key)) {
      const value = make();
      this.values.set(key, value);
      value.catch(() => this.values.delete(key));
      if (this.values.size > this.limit) this.values.delete(this.values.keys().next().value);
    }
    return this.values.get(key);
  }
}
