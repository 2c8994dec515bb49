// Draws every chart of the page in the colours of the screen, and again where these change or the page is printed.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paint = (value, palette) => {
    if (typeof value === "string") return value[0] === "\u0000" ? palette[value.slice(1)] : value;
    if (Array.isArray(value)) return value.map((item) => paint(item, palette));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, paint(item, palette)]));
  };
  const draw = (theme, width) => {
    for (const [id, chart] of Object.entries(data.charts)) {
      const { data: traces, layout } = paint(chart, data.palettes[theme]);
      if (width) Object.assign(layout, { width, autosize: false });
      Plotly.react(id, traces, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    }
  };
  const screen = () => draw(dark.matches ? "dark" : "light");
  screen();
  dark.addEventListener("change", screen);
  window.addEventListener("beforeprint", () => draw("light", 680));
  window.addEventListener("afterprint", screen);
})();
