/** Singular values as an SVG: a line per projection, falling, on a logarithmic scale. Some lines of text; knows only names and numbers. */

export interface PlotLine {
  readonly name: string
  /** Descending. */
  readonly values: readonly number[]
}

const colours = ["#0b6bcb", "#d1495b", "#2e8b57", "#e08e0b", "#7b4fb5", "#00838f", "#8d6e63", "#555555"]
const [width, height] = [720, 420]
const area = { left: 64, right: 140, top: 44, bottom: 48 }
/** What is smaller than the largest by this is not drawn: where the arithmetic ends, and the noise begins. */
const decades = 6

/** `level` is drawn dashed; 0: none. */
export function spectrumPlot(title: string, lines: readonly PlotLine[], level: number): string {
  const largest = Math.max(level, ...lines.map(({ values }) => values[0] ?? 0)) || 1
  const shown = lines.map(({ name, values }) => ({ name, values: values.filter((s) => s > largest * 10 ** -decades) }))
  const top = Math.ceil(Math.log10(largest))
  const smallest = Math.min(level || largest, ...shown.map(({ values }) => values.at(-1) ?? largest))
  const low = Math.min(top - 1, Math.floor(Math.log10(smallest)))
  const count = Math.max(2, ...shown.map(({ values }) => values.length))
  const [w, h] = [width - area.left - area.right, height - area.top - area.bottom]
  const x = (i: number): string => (area.left + (i / (count - 1)) * w).toFixed(1)
  const y = (s: number): string => (area.top + ((top - Math.log10(s)) / (top - low)) * h).toFixed(1)
  const ends = `x1="${area.left}" x2="${area.left + w}"`
  const grid = Array.from({ length: top - low + 1 }, (_, i) => low + i).map(
    (power) =>
      `<line ${ends} y1="${y(10 ** power)}" y2="${y(10 ** power)}" stroke="#ddd"/><text x="${area.left - 8}" y="${y(10 ** power)}" dy="4" text-anchor="end">${power < -3 || power > 3 ? `1e${power}` : 10 ** power}</text>`,
  )
  const step = Math.max(
    1,
    10 ** Math.floor(Math.log10(count)) / (count < 3 * 10 ** Math.floor(Math.log10(count)) ? 2 : 1),
  )
  const ticks = Array.from({ length: Math.floor(count / step) + 1 }, (_, i) =>
    Math.max(1, Math.round(i * step)),
  ).filter((n) => n <= count)
  const drawn = shown.map(({ name, values }, i) => {
    const colour = colours[i % colours.length]
    const points = values.map((s, at) => `${x(at)},${y(s)}`).join(" ")
    const at = area.top + 8 + i * 20
    const key = `<line x1="${area.left + w + 14}" x2="${area.left + w + 34}" y1="${at}" y2="${at}" stroke="${colour}" stroke-width="2.5"/><text x="${area.left + w + 40}" y="${at}" dy="4">${escaped(name)}</text>`
    return `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="1.8"/>${key}`
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<text x="${area.left}" y="24" font-size="15" font-weight="600">${escaped(title)}</text>`,
    ...grid,
    ...[...new Set(ticks)].map(
      (n) => `<text x="${x(n - 1)}" y="${area.top + h + 18}" text-anchor="middle">${n}</text>`,
    ),
    `<text x="${area.left + w / 2}" y="${height - 10}" text-anchor="middle">singular value, by size</text>`,
    ...(level > 0 ? [`<line ${ends} y1="${y(level)}" y2="${y(level)}" stroke="#888" stroke-dasharray="5 4"/>`] : []),
    ...drawn,
    "</svg>",
    "",
  ].join("\n")
}

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
