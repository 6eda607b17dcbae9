// What page.py puts into a page beside its script: one JSON value, and bytes by name.

/** The JSON value of the page. Throws an Error with a plain sentence where it is damaged. */
export function embeddedData() {
  try {
    return JSON.parse(document.getElementById("data").textContent);
  } catch {
    throw new Error("This file is damaged: its data cannot be read. Export or download it again.");
  }
}

/** The names of the elements that hold the parts of some bytes, in order. */
function parts(name) {
  const elements = [];
  for (let i = 0; ; i++) {
    const element = document.getElementById(`${name}-${i}`);
    if (element === null) return elements;
    elements.push(element);
  }
}

/** Bytes of the page as a Uint8Array; the elements are emptied, so call it once for each name. */
export async function embeddedBytes(name) {
  const elements = parts(name);
  const compressed = new ReadableStream({
    pull(controller) {
      const element = elements.shift();
      if (element === undefined) return controller.close();
      const text = element.textContent;
      element.remove();
      // steps that keep each decoded string small, and that end where a group of base64 does
      for (let at = 0; at < text.length; at += 1 << 22) {
        controller.enqueue(decode64(text.slice(at, at + (1 << 22))));
      }
    },
  });
  try {
    if (elements.length === 0) throw new Error("absent");
    const plain = compressed.pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(plain).arrayBuffer());
  } catch {
    throw new Error(`This file is damaged: its ${name} cannot be read. Export or download it again.`);
  }
}

function decode64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** The address of a script for a Web Worker, of the modules that page.py was given for it. */
export function workerURL() {
  const source = document.getElementById("worker").textContent;
  return URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
}
