// Pages that are opened from disk may not fetch: what the search and the version switcher ask for
// comes from scripts instead, which browsers do load. Anywhere, addresses of versions are relative to
// the file that lists them.
{
  const disk = location.protocol === "file:";
  const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
  const loaded = new Map();
  const script = (url) => {
    if (!loaded.has(url)) {
      loaded.set(url, new Promise((done, failed) => {
        const element = document.createElement("script");
        element.src = url;
        element.onload = done;
        element.onerror = () => failed(new TypeError(`cannot load ${url}`));
        document.head.append(element);
      }));
    }
    return loaded.get(url);
  };
  const escaped = (text) => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);

  const ordinary = window.fetch.bind(window);
  window.fetch = async (resource, options) => {
    const url = new URL(resource instanceof Request ? resource.url : resource, location.href).href;
    if (url.endsWith("/switcher.json")) {
      if (disk) await script(url.replace(/json$/, "js"));
      const entries = disk ? window.fastgenVersions : await (await ordinary(url, options)).json();
      return Response.json(entries.map((e) => ({ ...e, url: new URL(e.url, url).href })));
    }
    if (!disk) return ordinary(resource, options);
    if (options?.method === "HEAD") return new Response(null); // whether a file is there: unknown
    if (url.startsWith(root.href) && url.includes(".html")) {
      await script(new URL("_static/texts.js", root).href);
      const page = decodeURI(url.slice(root.href.length)).replace(/\.html.*$/, "");
      const text = escaped(window.fastgenTexts[page] ?? "");
      return new Response(`<html><body><div role="main">${text}</div></body></html>`);
    }
    return ordinary(resource, options);
  };
}
